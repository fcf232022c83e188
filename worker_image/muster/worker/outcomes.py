"""What a task leaves behind: the result that is to be stored, and the line in the log.

The loop calls it with what the pool said of a run, or with why there was none. It knows no broker and no
pool.
"""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from muster.core.effects import StoredResult
from muster.core.policy import Policy
from muster.pools.base import Outcome
from muster.wire.message import Peek
from muster.wire.result import document, exception_document

task_logger = logging.getLogger("muster.task")


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """Makes results for the store; None where nothing is to be stored."""

    kept: bool
    """False: this worker stores no results at all."""
    policies: Mapping[str, Policy]
    default_policy: Policy
    expires_seconds: int

    def of(self, message: Peek, status: str, content: bytes) -> StoredResult | None:
        """Return what the task itself has left."""
        if not self.kept:
            return None
        return StoredResult(
            message.id, content, status, message.retries, self.expires_seconds, message.reply_to
        )

    def of_failure(
        self, message: Peek, policy: Policy | None, status: str, error: BaseException
    ) -> StoredResult | None:
        """Return the result of a task that did not come to leave one itself."""
        policy = policy or self.policies.get(message.task, self.default_policy)
        ignored = message.ignore_result or policy.ignore_result
        if ignored and not policy.store_errors_even_if_ignored:
            return None
        content = document(
            task_id=message.id,
            status=status,
            result=exception_document(error),
            now=datetime.now(UTC),
            retries=message.retries,
        )
        return self.of(message, status, content)


def log(message: Peek, outcome: Outcome) -> None:
    """Say how a run has ended. A failure was logged where it was raised, with its traceback."""
    if outcome.state == "SUCCESS":
        if task_logger.isEnabledFor(logging.INFO):
            task_logger.info(
                "%s[%s] succeeded in %.6fs: %s",
                message.task,
                message.id,
                outcome.runtime_seconds,
                outcome.text,
            )
    elif outcome.state == "RETRY":
        task_logger.info("%s[%s] retry: %s", message.task, message.id, outcome.text)
    elif outcome.state == "IGNORED":
        task_logger.info("%s[%s] ignored", message.task, message.id)
    elif outcome.state != "FAILURE":
        verb = "requeued" if outcome.state == "REQUEUED" else "rejected"
        task_logger.error("%s[%s] %s: %s", message.task, message.id, verb, outcome.text)
