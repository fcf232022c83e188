"""JSON ↔ types, and what is said of a document that does not fit."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster_operator.api.codec import InvalidObject, Problem, decode, encode
from muster_operator.api.manifests import KINDS
from muster_operator.api.meta import fields_of
from muster_operator.api.schedule import Run, Schedule, ScheduleSpec
from muster_operator.api.workerpool import Delivery, Floor, LastDecision, Scaling, WorkerPoolSpec
from resource_strategies import JSON, values

PARTS = [each.hint for kind in KINDS for each in fields_of(kind.cls)]


def problems(cls: type, document: Any, **options: Any) -> list[str]:
    with pytest.raises(InvalidObject) as refusal:
        decode(cls, document, **options)
    return [str(each) for each in refusal.value.problems]


@pytest.mark.parametrize("cls", dict.fromkeys(PARTS), ids=lambda each: each.__name__)
@given(data=st.data())
def test_decoding_what_was_encoded_returns_the_value(cls, data):
    """`decode` after `encode` is identity for metadata, every spec and every status."""
    value = data.draw(values(cls))
    assert decode(cls, encode(value)) == value


@pytest.mark.parametrize("cls", dict.fromkeys(PARTS), ids=lambda each: each.__name__)
@given(document=JSON)
def test_any_document_is_decoded_or_refused(cls, document):
    """Whatever JSON comes in, the answer is a value or InvalidObject with at least one problem."""
    for strict in (False, True):
        try:
            assert isinstance(decode(cls, document, strict=strict), cls)
        except InvalidObject as error:
            assert error.problems  # noqa: PT017 - either way is right


def test_an_error_names_the_fields_path():
    """Problems say where, from the object's root, and what was there."""
    document = {
        "image": 1,
        "queues": ["mail", None],
        "scaling": {"maxReplicas": "ten", "floors": [{"replicas": 1}]},
    }
    assert problems(WorkerPoolSpec, document, path="spec") == [
        "spec.image: must be a string, not 1",
        "spec.app: is required",
        "spec.queues[1]: must be a string, not null",
        "spec.scaling.maxReplicas: must be an integer, not 'ten'",
        "spec.scaling.floors[0].schedule: is required",
        "spec.scaling.floors[0].until: is required",
    ]


def test_unknown_fields_are_left_out_or_refused():
    """A tolerant reader skips what it does not know; a strict one names it and the nearest that it knows."""
    document = {"maxReplica": 3, "zzz": 1}
    assert decode(Scaling, document) == Scaling()
    nearest, known = problems(Scaling, document, path="spec.scaling", strict=True)
    assert nearest == "spec.scaling.maxReplica: is no field of this object; did you mean maxReplicas?"
    assert known.startswith("spec.scaling.zzz: is no field of this object; known are mode, minReplicas, ")


def test_a_tolerant_reader_leaves_bounds_and_rules_to_the_server():
    """An object that older rules let in can still be read."""
    document = {"minReplicas": -1, "maxReplicas": 0}
    assert decode(Scaling, document) == Scaling(min_replicas=-1, max_replicas=0)
    assert problems(Scaling, document, strict=True) == [
        "minReplicas: must be at least 0, not -1",
        "maxReplicas: must be at least 1, not 0",
    ]


@pytest.mark.parametrize("spec", [{"image": "", "app": "a", "queues": []}])
def test_lengths_are_bounds_too(spec):
    """Empty text and empty lists are refused where something must be said."""
    assert problems(WorkerPoolSpec, spec, strict=True) == [
        "image: must not be empty",
        "queues: must have at least 1 items",
    ]


@pytest.mark.parametrize(
    ("cls", "document", "problem"),
    [
        (Scaling, {"maxReplicas": True}, "maxReplicas: must be an integer, not True"),
        (Scaling, {"maxReplicas": 1.5}, "maxReplicas: must be an integer, not 1.5"),
        (Scaling, {"mode": "Auto"}, "mode: must be one of Managed, Fixed, External, not 'Auto'"),
        (Scaling, {"floors": {}}, "floors: must be a list, not an object"),
        (Scaling, [], "must be an object, not a list"),
        (Delivery, {"prefetch": 1.5}, "prefetch: must be an integer or a string, not 1.5"),
        (Delivery, {"prefetch": True}, "prefetch: must be an integer or a string, not True"),
        (Delivery, {"rejectOnWorkerLost": "yes"}, "rejectOnWorkerLost: must be true or false, not 'yes'"),
        (Delivery, {"lease": 30}, "lease: must be a string, not 30"),
        (
            Delivery,
            {"lease": "30"},
            "lease: '30' is no duration: a duration is written like 90s, 5m, 1h30m or 7d",
        ),
        (
            WorkerPoolSpec,
            {"image": "a", "app": "b", "queues": ["q"], "template": []},
            "template: must be an object, not a list",
        ),
        (
            Run,
            {"time": "2026-01-31", "taskId": "a"},
            "time: must be an instant with its offset such as 2026-01-31T08:00:00Z, not '2026-01-31'",
        ),
        (
            Run,
            {"time": "now", "taskId": "a"},
            "time: must be an instant with its offset such as 2026-01-31T08:00:00Z, not 'now'",
        ),
    ],
)
def test_a_wrong_type_is_named_with_its_value(cls, document, problem):
    """The sentence says what is needed and what was there."""
    assert problems(cls, document) == [problem]


def test_what_is_not_given_takes_its_default():
    """Missing and null are the same, and both mean the default."""
    assert decode(Scaling, {"maxReplicas": None}) == Scaling()
    floor = decode(Floor, {"schedule": "@daily", "until": "@hourly", "replicas": 1})
    assert floor.time_zone == "Etc/UTC"


def test_json_is_kubernetes_own():
    """Names are camelCase, durations and instants are text, what is empty or not given is left out."""
    decision = LastDecision(
        from_=1, to=3, reason="LoadRose", inputs={"depth": 9}, time=datetime(2026, 1, 31, 8, tzinfo=UTC)
    )
    assert encode(decision) == {
        "from": 1,
        "to": 3,
        "reason": "LoadRose",
        "inputs": {"depth": 9},
        "time": "2026-01-31T08:00:00Z",
    }
    spec = encode(ScheduleSpec(task="t", queue="q", every=timedelta(seconds=90)))
    assert (spec["every"], spec["suspend"], spec["options"]) == ("1m30s", False, {})
    assert not {"args", "kwargs", "schedule", "solar"} & spec.keys()
    assert type(spec["catchUp"]) is str


def test_encoding_what_is_no_part_of_the_api_is_an_error():
    """A type that JSON cannot say is a mistake in the code, and shows as one."""

    @dataclass(frozen=True)
    class Other:
        value: object

    with pytest.raises(TypeError, match="no JSON can say a complex"):
        encode(1j)
    with pytest.raises(TypeError, match="no JSON can say a object"):
        encode(Other(object()))


def test_problems_are_values():
    """A caller can show problems one by one; the error's text has one on each line."""
    error = InvalidObject((Problem("spec.a", "is required"), Problem("", "is no manifest")))
    assert str(error) == "spec.a: is required\nis no manifest"
    assert error.problems[0] == Problem("spec.a", "is required")


def test_a_schedule_without_metadata_is_refused():
    """The name is required of every object."""
    assert problems(Schedule, {"spec": {"task": "t", "queue": "q"}}) == ["metadata: is required"]
