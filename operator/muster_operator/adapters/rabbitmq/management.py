"""RabbitMQ's management API: what a virtual host is made of, and the policies that AMQP cannot write.

Synchronous, over the standard library: it is called from a poller's thread, a handful of small requests in
ten seconds, and needs TLS, basic authentication and JSON. No error has a URL or password in it.
"""

import base64
import http.client
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from muster.transports.amqp.address import virtual_host
from muster.transports.amqp.delayed import return_of
from muster_operator.adapters.rabbitmq.names import BY_QUEUE, DEAD, FIRST_DEATH
from muster_operator.api.conditions import Reason
from muster_operator.model.rabbitmq import FoundQueue, Management, Policy

ANSWER_SECONDS: Final = 10.0
_COLUMNS: Final = (
    "name,type,durable,auto_delete,exclusive,arguments,policy,operator_policy,effective_policy_definition,"
    "members,online,slave_nodes,synchronised_slave_nodes"
)
_POLICY_WRITERS: Final = frozenset({"administrator", "policymaker"})
_OURS: Final = ("celery_delayed_", "muster.", "amq.")
"""Queues that nobody declares without a type."""


class ManagementError(Exception):
    """The management API does not do what was asked; `reason` is a word of the API's."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class ManagementClient:
    """One virtual host's management API. `url` names the API, and its user where it is not the broker's."""

    def __init__(self, url: str, broker_url: str, ca_file: str = "") -> None:
        broker = urlsplit(broker_url.partition(";")[0].strip())
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ManagementError(
                Reason.SECRET_INVALID,
                "the Secret's managementUrl is not written http://host:15672 or https://…",
            )
        with_user = parts if parts.username else broker
        user = unquote(with_user.username or "guest")
        token = base64.b64encode(f"{user}:{unquote(with_user.password or 'guest')}".encode()).decode()
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self._place = host if port is None else f"{host}:{port}"
        self._base = urlunsplit(
            (parts.scheme, self._place, parts.path.rstrip("/").removesuffix("/api"), "", "")
        )
        self._headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
        self._vhost = quote(virtual_host(broker.path), safe="")
        secure = parts.scheme == "https"
        try:
            self._tls = ssl.create_default_context(cafile=ca_file or None) if secure else None
        except OSError as error:
            raise ManagementError(
                Reason.SECRET_INVALID,
                "the Secret's managementUrl cannot be used: "
                f"its ca.crt is no file of certificates in PEM: {error}",
            ) from None
        self.may_set_default_type = True
        """Whether setting the virtual host's default type has not been tried yet."""

    def read(self, queues: Iterable[str]) -> Management:
        """Return what there is of these queues, and everybody's policies. Raises ManagementError."""
        user = self._ask("GET", "whoami")
        tags = user.get("tags") or ()
        # older servers write them as one text
        words = frozenset(tags.split(",") if isinstance(tags, str) else tags)
        administrator = "administrator" in words
        asked = frozenset(queues)
        found = self._ask("GET", f"queues/{self._vhost}?columns={_COLUMNS}")
        led = self._led()
        default_type = ""
        if administrator:
            default_type = str(self._ask("GET", f"vhosts/{self._vhost}").get("default_queue_type") or "")
        may_write = bool(words & _POLICY_WRITERS)
        policies = self._ask("GET", f"policies/{self._vhost}") if may_write else []
        return Management(
            queues={
                each["name"]: _queue(each, led.get(each["name"], frozenset()))
                for each in found
                if each["name"] in asked
            },
            policies=tuple(_policy(each) for each in policies),
            default_type="" if default_type == "undefined" else default_type,
            foreign_classic=any(_is_foreign_classic(each) for each in found if each["name"] not in asked),
            may_write_policies=may_write,
            may_set_default_type=administrator and self.may_set_default_type,
            user=str(user.get("name", "")),
        )

    def _led(self) -> Mapping[str, frozenset[str]]:
        """Return, by queue, the queues all of whose dead letters are led to it."""
        topic: dict[str, set[str]] = {}
        first: dict[str, set[str]] = {}
        for each in self._bindings(DEAD):
            topic.setdefault(each["destination"], set()).add(each["routing_key"])
        for each in self._bindings(BY_QUEUE):
            queue = str((each.get("arguments") or {}).get(FIRST_DEATH, ""))
            first.setdefault(each["destination"], set()).add(queue)
        return {
            name: frozenset(
                queue for queue in queues if {queue, return_of(queue).routing_key} <= topic.get(name, set())
            )
            for name, queues in first.items()
        }

    def _bindings(self, exchange: str) -> list[Any]:
        path = f"exchanges/{self._vhost}/{exchange}/bindings/source"
        found: list[Any] = self._ask("GET", path, missing=[])
        return found

    def put_policy(self, policy: Policy) -> None:
        """Write a policy. Raises ManagementError."""
        body = {
            "pattern": policy.pattern,
            "definition": dict(policy.definition),
            "priority": policy.priority,
            "apply-to": policy.apply_to,
        }
        self._ask("PUT", f"policies/{self._vhost}/{quote(policy.name, safe='')}", body)

    def remove_policy(self, name: str) -> None:
        """Remove a policy; one that is gone is fine. Raises ManagementError."""
        self._ask("DELETE", f"policies/{self._vhost}/{quote(name, safe='')}", missing={})

    def set_default_type(self, type_: str) -> None:
        """Set the virtual host's default queue type, once. Raises ManagementError."""
        found = self._ask("GET", f"vhosts/{self._vhost}")
        # RabbitMQ empties those of them that a PUT does not name
        kept = {name: found[name] for name in ("description", "tags") if name in found}
        self.may_set_default_type = False
        self._ask("PUT", f"vhosts/{self._vhost}", {**kept, "default_queue_type": type_})

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, missing: Any = None
    ) -> Any:
        """Return the answer; `missing`, if it is given, where there is nothing of that name."""
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            f"{self._base}/api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers=self._headers,
        )
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS, context=self._tls) as answer:  # noqa: S310
                text = answer.read()
            return json.loads(text) if text.strip() else {}
        except urllib.error.HTTPError as error:
            if error.code == 404 and missing is not None:
                return missing
            raise self._error(error, path.partition("?")[0]) from None
        except http.client.HTTPException as error:
            raise ManagementError(
                Reason.MANAGEMENT_UNREACHABLE,
                f"RabbitMQ's management API at {self._place}: no HTTP there ({type(error).__name__}); "
                "managementUrl is to name its port, by default 15672, or 15671 with https://",
            ) from None
        except (OSError, ValueError) as error:
            text = str(getattr(error, "reason", None) or error) or type(error).__name__
            raise ManagementError(
                Reason.MANAGEMENT_UNREACHABLE, f"RabbitMQ's management API at {self._place}: {text}"
            ) from None

    def _error(self, error: urllib.error.HTTPError, path: str) -> ManagementError:
        try:
            words = str(json.loads(error.read()).get("reason") or error.reason)
        except (OSError, ValueError, AttributeError, http.client.HTTPException):
            words = str(error.reason)
        where = f"RabbitMQ's management API at {self._place}"
        if error.code == 401 and "Login failed" in words:
            return ManagementError(Reason.AUTH_FAILED, f"{where} refuses the credentials: {words}")
        if error.code in {401, 403}:
            return ManagementError(
                Reason.PERMISSION_MISSING,
                f"{where} refuses {path}: {words}; its user needs the tag policymaker and its rights on the "
                f"virtual host",
            )
        if error.code == 404:
            return ManagementError(Reason.VIRTUAL_HOST_NOT_FOUND, f"{where} has no {path}")
        return ManagementError(
            Reason.BROKER_ERROR, f"{where} answers {path} with {error.code}: {words[:300]}"
        )


def _queue(body: Mapping[str, Any], led: frozenset[str]) -> FoundQueue:
    members, online = body.get("members"), body.get("online")
    mirrors, current = body.get("slave_nodes"), body.get("synchronised_slave_nodes")
    counts: tuple[int | None, int | None] = (None, None)
    if isinstance(members, list) and isinstance(online, list):
        counts = (len(members), len(online))
    elif isinstance(mirrors, list) and isinstance(current, list):
        counts = (1 + len(mirrors), 1 + len(current))
    return FoundQueue(
        arguments=body.get("arguments") or {},
        policy=body.get("policy") or "",
        operator_policy=body.get("operator_policy") or "",
        effective=body.get("effective_policy_definition") or {},
        members=counts[0],
        online=counts[1],
        dead_letters_of=led,
    )


def _policy(body: Mapping[str, Any]) -> Policy:
    return Policy(
        name=body["name"],
        pattern=body["pattern"],
        definition=body["definition"],
        priority=body["priority"],
        apply_to=body["apply-to"],
    )


def _is_foreign_classic(body: Mapping[str, Any]) -> bool:
    return bool(
        body.get("type") == "classic"
        and body.get("durable")
        and not body.get("exclusive")
        and not body.get("auto_delete")
        and not str(body["name"]).startswith(_OURS)
    )
