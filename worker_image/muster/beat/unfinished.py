"""Whether the last run of a schedule is finished: for those that forbid overlapping runs.

Beat's loop asks at each of their due times. The answer comes from the result store: a document in a ready
state says "finished". None at all says "not yet", until results as old as this run are no longer kept.
"""

import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final, Protocol

from muster.core.schedule import Unknown
from muster.errors import BrokerUnavailable
from muster.results.base import ResultStore
from muster.wire.result import READY_STATES, load
from muster.wire.schedule import RunRecord

PATIENCE_SECONDS: Final = 1.0
"""How long beat waits for the answers, all together: other schedules are due meanwhile."""

NO_STORE: Final = Unknown(
    reason="beat was told no result store that it can read, which rpc:// is not: set MUSTER_RESULT_URL, "
    "--result-backend or result_backend"
)
NO_ANSWER: Final = Unknown(reason=f"the result store has not answered within {PATIENCE_SECONDS:g} s")


class Runs(Protocol):
    """What tells beat of runs."""

    def unfinished(self, records: Mapping[str, RunRecord], now: datetime) -> dict[str, bool | Unknown]:
        """Return by uid whether the last run of each record is unfinished."""


def unfinished(status: str | None, age: timedelta, kept: timedelta | None) -> bool:
    """Return whether a run is unfinished.

    `status` is that of its result, None when there is none; `age` is how long ago it was due; `kept` is how
    long results are kept, None for ever.
    """
    if status is not None:
        return status not in READY_STATES
    return kept is None or age < kept


class NoResults:
    """For a beat that knows no result store."""

    def unfinished(self, records: Mapping[str, RunRecord], now: datetime) -> dict[str, bool | Unknown]:  # noqa: ARG002
        """Return that nothing is known."""
        return dict.fromkeys(records, NO_STORE)


class ResultRuns:
    """Asks a result store. An unreachable one makes the answers unknown and holds beat up no longer."""

    def __init__(self, store: ResultStore, *, kept: timedelta | None) -> None:
        self._store = store
        self._kept = kept
        self._asking: threading.Thread | None = None

    def unfinished(self, records: Mapping[str, RunRecord], now: datetime) -> dict[str, bool | Unknown]:
        """Return by uid whether the last run is unfinished, Unknown where the store does not say."""
        answers: dict[str, bool | Unknown] = {}
        if self._asking is None or not self._asking.is_alive():
            self._asking = threading.Thread(
                target=self._ask, args=(dict(records), now, answers), name="last runs", daemon=True
            )
            self._asking.start()
            self._asking.join(PATIENCE_SECONDS)
        known = dict(answers)  # the thread may still be adding to it
        return {uid: known.get(uid, NO_ANSWER) for uid in records}

    def _ask(
        self, records: Mapping[str, RunRecord], now: datetime, answers: dict[str, bool | Unknown]
    ) -> None:
        for uid, record in records.items():
            if record.last_id is None or record.last_at is None:
                answers[uid] = False
                continue
            try:
                document = self._store.get(record.last_id)
                status = None if document is None else str(load(document).get("status"))
                answers[uid] = unfinished(status, now - record.last_at, self._kept)
            except BrokerUnavailable as error:
                answers.update(
                    {other: Unknown(reason=str(error)) for other in records if other not in answers}
                )
                return
            except ValueError as error:
                answers[uid] = Unknown(reason=f"the result {record.last_id} cannot be read: {error}")
