"""What holds for a task: what it says itself, else what the worker was told."""

import pytest

from muster.core.policy import Policy, RateLimits, TaskPolicy, effective, without_effect
from muster.core.rate import read_rate
from muster.errors import ConfigurationError

NAME = "shop.send"
SAID = {"each": {NAME: "2/s"}, "default": "3/s"}


def rate(task=None, **limits):
    return effective(TaskPolicy(rate_limit=task), Policy(), name=NAME, limits=RateLimits(**limits)).rate


def test_a_task_goes_by_its_own_word_and_else_by_the_workers():
    """Field by field; False and 0 are said, None is not."""
    default = Policy(acks_late=True, hard_limit=60.0, ignore_result=True)
    task = TaskPolicy(acks_late=False, hard_limit=0.0, soft_limit=5.0)
    assert effective(task, default) == Policy(
        acks_late=False, hard_limit=0.0, soft_limit=5.0, ignore_result=True
    )


@pytest.mark.parametrize(
    ("task", "limits", "holds"),
    [
        ("1/s", SAID, "1/s"),
        (None, SAID, "2/s"),
        (None, {"default": "3/s"}, "3/s"),
        (None, {}, None),
        ("0", SAID, None),
        ("1/s", {**SAID, "ignore_tasks": True}, "2/s"),
        ("1/s", {"default": "3/s", "ignore_tasks": True}, None),
        (None, {"each": {"shop.other": "2/s"}}, None),
    ],
)
def test_the_order_of_rates(task, limits, holds):
    """The task, what the worker was told of it, the default of all tasks; 0 is said, and is no limit."""
    assert rate(task, **limits) == read_rate(holds, whose="")


def test_a_rate_for_all_workers_stands_beside_that_of_each():
    """Both hold."""
    limits = RateLimits(together={NAME: "100/m"})
    found = effective(TaskPolicy(rate_limit="1/s"), Policy(), name=NAME, limits=limits)
    assert found.rate == read_rate("1/s", whose="")
    assert found.global_rate == read_rate("100/m", whose="")


@pytest.mark.parametrize(
    ("task", "limits", "whose"),
    [
        ("fast", {}, "rate_limit of the task shop.send"),
        (None, {"each": {NAME: "fast"}}, "the rate limit of shop.send"),
        (None, {"together": {NAME: "fast"}}, "the global rate limit of shop.send"),
        (None, {"default": "fast"}, "task_default_rate_limit"),
    ],
)
def test_a_rate_that_is_none_is_refused_where_it_stands(task, limits, whose):
    """The sentence names whose it is."""
    with pytest.raises(ConfigurationError, match=f"^{whose} is 'fast'"):
        rate(task, **limits)


def test_what_a_worker_was_told_in_vain():
    """A task's own rate goes before the manifest's, and a rate of no task holds for none."""
    tasks = {NAME: TaskPolicy(rate_limit="1/s"), "shop.other": TaskPolicy()}
    limits = RateLimits(each={NAME: "2/s", "shop.other": "2/s", "shop.typo": "2/s"}, together={NAME: "5/s"})
    assert without_effect(tasks, limits) == [
        "the rate limit 2/s of shop.send has no effect: the task itself says 1/s",
        "there is a rate limit of shop.typo, and no such task in this worker",
    ]
    ignoring = RateLimits(each={NAME: "2/s"}, ignore_tasks=True)
    assert without_effect(tasks, ignoring) == []
