"""Capture task messages as Celery itself stores them in Redis, with what Celery itself reads in them.

    .venv/bin/python tests/golden/capture_celery.py

writes `tests/golden/celery-<version>/<case>.json`: `raw` is the entry of the Redis list, `key` that list,
`read` what Celery's worker makes of it. Typed values are kept in kombu's own JSON. Ids are fixed; a second
run changes origins, delivery tags and the times that count from now.
"""

import sys
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import celery
from celery import chain
from celery.worker.request import Request
from celery.worker.strategy import hybrid_to_proto2, proto1_to_proto2
from kombu.utils.json import dumps, loads

sys.path.insert(0, str(Path(__file__).parent.parent))
from servers import RedisServer

NOON = datetime(2031, 5, 4, 12, 0, tzinfo=UTC)
ONE_ID = "6a1f2d94-5d3f-4a77-9b6f-0d1c5d1f0a01"
NEXT_ID = "6a1f2d94-5d3f-4a77-9b6f-0d1c5d1f0a02"
LAST_ID = "6a1f2d94-5d3f-4a77-9b6f-0d1c5d1f0a03"
KEYS = [f"celery{step}" for step in ("", "\x06\x163", "\x06\x166", "\x06\x169")]

TYPED = {
    "none": None,
    "true": True,
    "integer": 2**70,
    "float": 1.5,
    "not_a_number": float("nan"),
    "text": "Grüße \x00 \u2028 \ud800",
    "list": [1, [2, {"three": 3}]],
    "tuple": (1, 2),
    "datetime": datetime(2026, 11, 21, 8, 30, 1, 250, tzinfo=UTC),
    "naive": datetime(2026, 11, 21, 8, 30),  # noqa: DTZ001 - clients send them
    "date": date(2026, 11, 21),
    "time": time(8, 30, 1),
    "decimal": Decimal("12.340"),
    "uuid": UUID("12345678-1234-5678-1234-567812345678"),
    "bytes": b"text",
    "binary": b"\xff\x00",
}


def cases(app, old):
    """Name each case with what sends it."""
    add, note = app.signature("shop.add"), app.signature("shop.note")

    def send(**options):
        return lambda: add.clone((2, 3), {"scale": 10}).apply_async(task_id=ONE_ID, **options)

    yield "plain", send()
    yield "types", lambda: app.send_task("shop.add", list(TYPED.values()), TYPED, task_id=ONE_ID)
    yield "no_arguments", lambda: app.send_task("shop.add", task_id=ONE_ID)
    yield "eta", send(eta=NOON)
    yield "eta_naive", send(eta=NOON.replace(tzinfo=None))
    yield "countdown", send(countdown=90)
    yield "expires_at", send(expires=NOON)
    yield "expires_in", send(expires=90)
    for priority in (0, 4, 9):
        yield f"priority_{priority}", send(priority=priority)
    yield "link", send(link=note.clone(("done",)))
    yield "links", send(link=[note.clone(), add.clone((1,), immutable=True)], link_error=note.clone())
    yield "headers", send(headers={"tenant": "acme", "trace": {"id": 7}})
    yield "limits", send(time_limit=30, soft_time_limit=20.5)
    yield "ignore_result", send(ignore_result=True)
    yield "shadow", send(shadow="shop.add[vip]")
    yield "retried", send(retries=2, root_id=NEXT_ID, parent_id=LAST_ID)
    yield "stamped", lambda: _stamped(add.clone((2, 3)))
    steps = [add.clone((2, 3)), add.clone((4,)), note.clone()]
    yield (
        "chain",
        lambda: chain(
            *[
                step.set(task_id=task_id)
                for step, task_id in zip(steps, (ONE_ID, NEXT_ID, LAST_ID), strict=True)
            ]
        ).apply_async(),
    )
    yield "compressed", send(compression="zlib")
    older = old.signature("shop.add", (2, 3), {"scale": 10})
    yield "v1_plain", lambda: older.apply_async(task_id=ONE_ID)
    yield "v1_eta", lambda: older.apply_async(task_id=ONE_ID, eta=NOON, expires=NOON, retries=1)
    yield "v1_limits", lambda: older.apply_async(task_id=ONE_ID, time_limit=30, soft_time_limit=20)
    yield "v1_link", lambda: older.apply_async(task_id=ONE_ID, link=old.signature("shop.note"))
    yield "hybrid", lambda: _hybrid(app)


def _stamped(signature):
    signature.stamp(tenant="acme")
    signature.apply_async(task_id=ONE_ID)


def _hybrid(app):
    """Protocol 2's headers around protocol 1's body, which Celery 4 accepted from its own early versions."""
    body = {"args": [2, 3], "kwargs": {"scale": 10}, "id": ONE_ID, "task": "shop.add", "retries": 1}
    body |= {"eta": None, "expires": None, "timelimit": [30, 20], "callbacks": None, "errbacks": None}
    with app.producer_pool.acquire(block=True) as producer:
        headers = {"lang": "py", "task": "shop.add", "id": ONE_ID}
        producer.publish(body, routing_key="celery", serializer="json", headers=headers)


def read(app, message):
    """Return what Celery's worker knows of a message when it hands it to a pool."""
    payload = message.decode()
    if "task" not in message.headers:
        converted = proto1_to_proto2(message, payload)
    elif "args" in payload:
        converted = hybrid_to_proto2(message, payload)
    else:
        converted = None
    if converted is None:
        request, (args, kwargs, embed) = Request(message, app=app), payload
    else:
        body, headers, is_decoded, _utc = converted
        request = Request(message, app=app, body=body, headers=headers, decoded=is_decoded)
        args, kwargs, embed = body
    return {
        "task": request.type,
        "id": request.id,
        "args": args,
        "kwargs": kwargs,
        "callbacks": embed.get("callbacks"),
        "errbacks": embed.get("errbacks"),
        "chain": embed.get("chain"),
        "eta": request.eta and request.eta.timestamp(),
        "expires": request.expires and request.expires.timestamp(),
        "retries": request.request_dict.get("retries") or 0,
        "timelimit": request.time_limits,
        "root_id": request.root_id,
        "parent_id": request.parent_id,
        "ignore_result": bool(request.request_dict.get("ignore_result")),
        "shadow": request.request_dict.get("shadow"),
        "correlation_id": request.correlation_id,
        "priority": request.delivery_info["priority"],
        "tenant": request.request_dict.get("tenant"),
    }


def anything(*args, **kwargs):
    """The tasks of the messages; it is never run."""


def main():
    folder = Path(__file__).parent / f"celery-{'.'.join(celery.__version__.split('.')[:2])}"
    folder.mkdir(exist_ok=True)
    with RedisServer() as server, server.client() as client:
        app = celery.Celery(broker=server.url, set_as_current=False)
        old = celery.Celery(broker=server.url, set_as_current=False, changes={"task_protocol": 1})
        for name in ("shop.add", "shop.note"):
            app.task(anything, name=name)
        app.set_default()
        for name, send in cases(app, old):
            send()
            [(key, raw)] = [(key, client.rpop(key)) for key in KEYS if client.llen(key)]
            client.lpush(key, raw)
            with app.connection_for_read() as connection:
                message = connection.default_channel.basic_get("celery", no_ack=True)
                message = connection.default_channel.message_to_python(message)
                golden = {
                    "case": name,
                    "celery": celery.__version__,
                    "key": key,
                    "raw": raw.decode(),
                    "read": loads(dumps(read(app, message))),
                }
            (folder / f"{name}.json").write_text(f"{dumps(golden, indent=1)}\n")
        print(f"{len(list(folder.glob('*.json')))} messages in {folder}")


if __name__ == "__main__":
    main()
