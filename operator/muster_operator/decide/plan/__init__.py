"""From a snapshot to a plan: one function for each kind, which composes the decisions beside it.

The loop calls them on every pass, and `muster dev` calls the same ones. A plan that has been carried out
leads to an empty one.
"""

from .beat import plan_beat
from .schedule import plan_schedule
from .taskqueue import plan_task_queue
from .virtualhost import plan_virtual_host
from .workerpool import plan_worker_pool

__all__ = ["plan_beat", "plan_schedule", "plan_task_queue", "plan_virtual_host", "plan_worker_pool"]
