"""Conditions that TaskQueue and WorkerPool share: the broker and the Secret that names it."""

from muster_operator.api.conditions import Condition, ConditionStatus, ConditionType, Reason
from muster_operator.model.readings import Known, Reading, Unknown
from muster_operator.model.world import BrokerFacts, SecretView

_NOT_ASKED_YET = frozenset({Reason.NOT_OBSERVED_YET, "Stale"})

_REMEDIES = {
    Reason.SECRET_NOT_FOUND: "create it with the key url",
    Reason.SECRET_INVALID: "put the broker's URL under the key url",
    Reason.AUTH_FAILED: "check user and password in the Secret's url",
    Reason.BROKER_UNREACHABLE: "check the address in the Secret's url, the broker, and network policies",
    Reason.VIRTUAL_HOST_NOT_FOUND: "create it, or correct the path of the Secret's url",
    Reason.PERMISSION_MISSING: "give the user of the Secret's url its rights on the virtual host",
    Reason.BROKER_NOT_SUPPORTED: "use a redis, rediss, amqp or amqps URL",
    Reason.BROKER_ERROR: "see the broker's log",
}


def broker_problem(
    secret_name: str, secret: Reading[SecretView], broker: Reading[BrokerFacts]
) -> tuple[str, str] | None:
    """Return reason and message of what stands between us and the broker; None when it answers."""
    for reading in (secret, broker):
        if isinstance(reading, Unknown):
            remedy = _REMEDIES.get(Reason(reading.reason)) if reading.reason in set(Reason) else None
            what = f"Secret {secret_name}: {reading.message or reading.reason}"
            return reading.reason, f"{what}; {remedy}" if remedy else what
    return None


def broker_reachable(
    secret_name: str, secret: Reading[SecretView], broker: Reading[BrokerFacts]
) -> Condition:
    """Return BrokerReachable."""
    problem = broker_problem(secret_name, secret, broker)
    if problem is None:
        facts = broker.value if isinstance(broker, Known) else None
        named = f"{facts.type} {facts.version}".strip() if facts else "the broker"
        return condition(ConditionType.BROKER_REACHABLE, True, Reason.AS_DECLARED, f"{named} answers")
    reason, message = problem
    status = None if reason in _NOT_ASKED_YET else False
    return condition(ConditionType.BROKER_REACHABLE, status, reason, message)


def condition(type_: ConditionType, status: bool | None, reason: str, message: str = "") -> Condition:
    """Return a condition; status None is Unknown."""
    words = {True: ConditionStatus.TRUE, False: ConditionStatus.FALSE, None: ConditionStatus.UNKNOWN}
    return Condition(type=str(type_), status=words[status], reason=str(reason), message=message)
