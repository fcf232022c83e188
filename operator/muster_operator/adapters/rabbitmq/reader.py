"""Reads a virtual host for the operator, and carries out what is to be done there.

A broker's poller owns one reader and calls `read` from its thread; actions run in threads of their own, over
connections of their own, and tell the reader what was answered.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from muster.errors import PermissionDenied
from muster_operator.adapters.rabbitmq.management import ManagementClient, ManagementError
from muster_operator.adapters.rabbitmq.topology import Topology
from muster_operator.api.conditions import Reason
from muster_operator.model.actions import (
    Action,
    DeclareQueues,
    PutPolicy,
    RemovePolicy,
    SetDefaultQueueType,
)
from muster_operator.model.rabbitmq import Answer, FoundQueue, Management, Policy, VirtualHost
from muster_operator.model.readings import Known, Reading, Unknown

LOOK_SECONDS: Final = 10.0
"""Between two looks, unless something was written."""
REFUSALS_SECONDS: Final = 30.0
"""A refusal is forgotten then, so that what was refused is asked for again."""
PRECONDITION_FAILED: Final = 406
_NO_API: Final = (
    "the Secret has no managementUrl, so policies are neither written nor read: add the key, such as "
    "http://broker:15672"
)


class VirtualHostReader:
    """See the module."""

    def __init__(self, url: str, management_url: str, ca_file: str) -> None:
        self._topology = Topology(url)
        self._url = url
        self._management: ManagementClient | None = None
        self._no_management: ManagementError | None = ManagementError(Reason.NO_MANAGEMENT_API, _NO_API)
        if management_url:
            try:
                self._management = ManagementClient(management_url, url, ca_file)
            except ManagementError as error:
                self._no_management = error
        self._answers: dict[str, tuple[float, Answer]] = {}
        self._last: Reading[VirtualHost] | None = None
        self._asked: frozenset[str] = frozenset()
        self._due_at = 0.0

    def read(self, queues: Sequence[str], now: datetime) -> Reading[VirtualHost]:
        """Return what there is of these queues, read lately. Raises BrokerUnavailable when nobody answers."""
        if self._last is None or self._asked != frozenset(queues) or time.monotonic() >= self._due_at:
            self._asked = frozenset(queues)
            self._due_at = time.monotonic() + LOOK_SECONDS
            before = self._last
            try:
                self._last = Known(value=self._read(queues, now), at=now)
            except PermissionDenied as error:
                same = isinstance(before, Unknown) and before.reason == Reason.PERMISSION_MISSING
                since = before.at if same and before is not None else now
                self._last = Unknown(reason=Reason.PERMISSION_MISSING, at=since, message=str(error))
        return self._last

    def _read(self, queues: Sequence[str], now: datetime) -> VirtualHost:
        management = self._read_management(queues, now)
        alarm = self._topology.alarm()
        before = self._last.value if isinstance(self._last, Known) else None
        led = True
        if isinstance(management, Known):
            there = frozenset(management.value.queues)
        elif alarm:  # it hears nothing else either
            there = before.there if before is not None else frozenset()
        else:
            there = self._topology.there(queues)
        if not alarm:
            led = self._topology.leads()
        return VirtualHost(
            asked=frozenset(queues),
            there=there,
            led=led,
            answers=self._answered(there),
            alarm=alarm,
            management=management,
        )

    def _read_management(self, queues: Iterable[str], now: datetime) -> Reading[Management]:
        failure = self._no_management
        if self._management is not None:
            try:
                return Known(value=self._management.read(queues), at=now)
            except ManagementError as error:
                failure = error
        assert failure is not None
        before = self._last.value.management if isinstance(self._last, Known) else None
        since = before.at if isinstance(before, Unknown) and before.reason == failure.reason else now
        return Unknown(reason=failure.reason, at=since, message=str(failure))

    def _answered(self, there: frozenset[str]) -> dict[str, Answer]:
        """Return the answers that still hold, and forget the others."""
        after = time.monotonic() - REFUSALS_SECONDS
        for name, (at, answer) in list(self._answers.items()):
            says_it_is_there = answer.code in {0, PRECONDITION_FAILED}
            if (says_it_is_there and name not in there) or (answer.code and at < after):
                del self._answers[name]
        return {name: answer for name, (_, answer) in list(self._answers.items())}

    # doing

    def carry_out(self, action: Action) -> Sequence[Answer]:
        """Do one action; called from any thread; return what was answered to declarations.

        Raises BrokerUnavailable and ManagementError.
        """
        answers: Sequence[Answer] = ()
        try:
            if isinstance(action, DeclareQueues):
                topology = Topology(self._url)
                try:
                    answers = topology.declare(action.queues)
                finally:
                    topology.close()
                at = time.monotonic()
                self._answers.update({each.declaration.name: (at, each) for each in answers})
            else:
                self._write(action)
        finally:
            self._due_at = 0.0
        return answers

    def _write(self, action: Action) -> None:
        if self._management is None:
            assert self._no_management is not None
            raise self._no_management
        match action:
            case PutPolicy(policy=policy):
                self._management.put_policy(policy)
            case RemovePolicy(name=name):
                self._management.remove_policy(name)
            case SetDefaultQueueType(type=type_):
                self._management.set_default_type(type_)
            case _:
                raise AssertionError(f"{type(action).__name__} is not for a virtual host")

    def close(self) -> None:
        """Give up the connection."""
        self._topology.close()


def reflected(
    reading: Reading[VirtualHost], action: Action, answers: Sequence[Answer]
) -> Reading[VirtualHost]:
    """Return the reading with a confirmed action in it, so that it is not done twice before the next look."""
    if not isinstance(reading, Known):
        return reading
    host = reading.value
    if isinstance(action, DeclareQueues):
        host = replace(
            host,
            led=True,
            there=host.there | {each.declaration.name for each in answers if not each.code},
            answers=dict(host.answers) | {each.declaration.name: each for each in answers},
        )
    if isinstance(host.management, Known):
        found = host.management.value
        if isinstance(action, DeclareQueues):
            found = replace(found, queues=_led(found.queues, answers))
        elif isinstance(action, SetDefaultQueueType):
            found = replace(found, default_type=action.type, may_set_default_type=False)
        else:
            found = replace(found, policies=_with(found.policies, action))
        host = replace(host, management=replace(host.management, value=found))
    return replace(reading, value=host)


def _led(queues: Mapping[str, FoundQueue], answers: Sequence[Answer]) -> Mapping[str, FoundQueue]:
    led = {
        each.declaration.name: replace(
            queues[each.declaration.name],
            dead_letters_of=queues[each.declaration.name].dead_letters_of
            | frozenset(each.declaration.dead_letters_of),
        )
        for each in answers
        if not each.code and each.declaration.name in queues
    }
    return {**queues, **led}


def _with(policies: tuple[Policy, ...], action: Action) -> tuple[Policy, ...]:
    match action:
        case PutPolicy(policy=policy):
            return (*(each for each in policies if each.name != policy.name), policy)
        case RemovePolicy(name=name):
            return tuple(each for each in policies if each.name != name)
    return policies
