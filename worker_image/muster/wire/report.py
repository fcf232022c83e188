"""What a worker says of itself over its broker, for the operator and for `muster dev` (DESIGN §6)."""

import msgspec


class TaskStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Totals of one task on one worker since it started."""

    succeeded: int = 0
    failed: int = 0
    retried: int = 0
    runtime_seconds: float = 0.0
    """Sum over succeeded, failed and retried runs."""


class WorkerReport(msgspec.Struct, frozen=True, kw_only=True):
    """One worker's state. Sent on change and every 5 s; ages are seconds at the time of sending."""

    worker: str
    """The pod's UID in a cluster; unique for each process elsewhere."""
    pool: str
    """`namespace/name` of the WorkerPool, or the worker's host name."""
    hostname: str
    pid: int
    pool_type: str
    queues: list[str]
    slots: int
    """How many tasks can run at once; where autoscale changes that, at the most."""
    busy: int
    claimed: int
    """Messages in hand that have not started."""
    oldest_start_age_seconds: float | None = None
    """Age of the longest running task; None when idle."""
    draining: bool = False
    drained: bool = False
    """Draining, and nothing runs or is in hand any more."""
    leaving: bool = False
    """It ends when it is drained: it was told to, by SIGTERM or by message."""
    ready: bool = True
    tasks: dict[str, TaskStatistics] = {}
    hands: dict[str, tuple[int, int]] = {}
    """Queue → (claimed, running) of the messages in hand; where the broker pushes them it cannot tell."""
    taken: dict[str, int] = {}
    """Queue → how many of its messages came into our hands since the worker's start."""
    extra_runs: list[tuple[str, str, str, int]] = []
    """(queue, task, cause, how often) of starts beyond the first."""
    settings: dict[str, str] = {}
    """What is effective, as text, for people and for conditions that compare it with the manifest."""


_decode = msgspec.json.Decoder(WorkerReport).decode


def encode(report: WorkerReport) -> bytes:
    """Return the JSON form."""
    return msgspec.json.encode(report)


def decode(data: bytes) -> WorkerReport:
    """Return the report. Raises msgspec.DecodeError for anything else."""
    return _decode(data)
