"""Facts about manifest files: what they declare, and the one line that says why they are refused."""

import base64
from datetime import UTC, datetime

import pytest

from muster.errors import ConfigurationError
from muster_operator.dev.manifests import read

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)

QUEUE = """\
apiVersion: muster.dev/v1beta1
kind: TaskQueue
metadata: {name: mail}
spec: {broker: {secretRef: {name: broker}}}
"""
POOL = """\
apiVersion: muster.dev/v1beta1
kind: WorkerPool
metadata: {name: mail}
spec: {image: shop, app: shop.tasks, queues: [mail]}
"""
SCHEDULE = """\
apiVersion: muster.dev/v1beta1
kind: Schedule
metadata: {name: report}
spec: {task: shop.report, queue: mail, every: 30s, args: [2026-01-31]}
"""


def refusal(*paths):
    """Return the text of the error that reading raises."""
    with pytest.raises(ConfigurationError) as caught:
        read(paths, NOW)
    return str(caught.value)


def test_several_documents_of_a_file_and_several_files_of_a_folder(tmp_path):
    """All are read, whatever stands in which."""
    (tmp_path / "both.yaml").write_text(f"{QUEUE}---\n{POOL}")
    (tmp_path / "schedule.yml").write_text(SCHEDULE)
    (tmp_path / "README.md").write_text("not a manifest")
    declared = read([tmp_path], NOW)
    assert set(declared.queues) == {("default", "mail")}
    assert set(declared.pools) == {("default", "mail")}
    assert set(declared.schedules) == {("default", "report")}
    assert declared.folders == (tmp_path.resolve(),)
    assert declared.notes == ()


def test_an_object_keeps_its_identity_from_run_to_run(tmp_path):
    """Equal names have equal UIDs, so that what a kept broker knows of a schedule still holds."""
    (tmp_path / "all.yaml").write_text(f"{QUEUE}---\n{SCHEDULE}")
    uids = [read([tmp_path], NOW).schedules["default", "report"].metadata.uid for _ in range(2)]
    assert uids[0] == uids[1]
    assert uids[0] != read([tmp_path], NOW).queues["default", "mail"].metadata.uid


def test_what_looks_like_a_date_stays_text(tmp_path):
    """As with kubectl: an argument 2026-01-31 reaches the task as it was written."""
    (tmp_path / "all.yaml").write_text(SCHEDULE)
    assert read([tmp_path], NOW).schedules["default", "report"].spec.args == ("2026-01-31",)


def test_secrets_are_decoded_and_stay_out_of_sight(tmp_path):
    """stringData wins over data, and no value stands in the object's text."""
    hidden = base64.b64encode(b"redis://:hidden@one").decode()
    (tmp_path / "secret.yaml").write_text(
        f"apiVersion: v1\nkind: Secret\nmetadata: {{name: broker}}\n"
        f"data: {{url: {hidden}, other: {hidden}}}\nstringData: {{url: 'redis://:open@two'}}\n---\n{QUEUE}"
    )
    declared = read([tmp_path], NOW)
    assert declared.secrets["default", "broker"] == {
        "url": "redis://:open@two",
        "other": "redis://:hidden@one",
    }
    assert "hidden" not in repr(declared)


def test_objects_of_other_kinds_are_left_aside(tmp_path):
    """A folder may hold the rest of the application too; a note names each."""
    (tmp_path / "all.yaml").write_text(
        f"apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\n---\n{QUEUE}"
    )
    (note,) = read([tmp_path], NOW).notes
    assert "Deployment web" in note


def test_a_quorum_queue_gets_one_note(tmp_path):
    """It is taken, and said that one computer has one copy; not so where a Secret names a broker."""
    queue = QUEUE.replace("spec: {", "spec: {type: Quorum, ")
    (tmp_path / "all.yaml").write_text(queue)
    (note,) = read([tmp_path], NOW).notes
    assert "Quorum" in note
    assert "mail" in note
    secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: broker}\nstringData: {url: 'amqp://one'}\n"
    (tmp_path / "all.yaml").write_text(f"{queue}---\n{secret}")
    assert read([tmp_path], NOW).notes == ()


def test_limits_that_the_embedded_broker_does_not_keep_get_a_note(tmp_path):
    """With what holds in their place; a broker that a Secret names is told of by a condition."""
    limited = QUEUE.replace("spec: {", "spec: {messageTTL: 1h, maxLength: 5, ")
    (tmp_path / "all.yaml").write_text(limited)
    (note,) = read([tmp_path], NOW).notes
    assert note.startswith("TaskQueue mail: no effect on the embedded broker: spec.messageTTL (")
    assert "spec.maxLength" in note
    secret = (
        "apiVersion: v1\nkind: Secret\nmetadata: {name: broker}\nstringData: {url: 'redis://:open@two'}\n"
    )
    (tmp_path / "all.yaml").write_text(f"{limited}---\n{secret}")
    assert read([tmp_path], NOW).notes == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (POOL.replace("queues: [mail]", "queues: []"), "document 1 (WorkerPool mail): spec.queues: "),
        (POOL.replace("app:", "ap:"), "spec.ap: is no field of this object; did you mean app?"),
        (f"{QUEUE}---\n{SCHEDULE.replace('30s', '0s')}", "document 2 (Schedule report): spec.every: "),
        (QUEUE.replace("kind: TaskQueue", "kind: Queue"), "kind: must be one of TaskQueue, "),
        (QUEUE.replace("v1beta1", "v9"), "apiVersion: must be muster.dev/v1beta1"),
        ("just a text", "document 1: a manifest must be an object"),
        (f"{QUEUE}---\nspec: [1, 2", "document 2, line 6, column 12: is no YAML: "),
        (f"{QUEUE}---\n{QUEUE}", "document 2 (TaskQueue mail): is declared in "),
        (
            "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata: {url: 'redis://'}\n",
            "data.url: must be text in base64; write it plainly under stringData instead",
        ),
        (
            "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData: {port: 1}\n",
            "stringData.port: must be a text; put it in quotes",
        ),
        ("apiVersion: v1\nkind: Secret\n", "document 1 (Secret): metadata.name: is required"),
        ("", "no TaskQueue, WorkerPool or Schedule is declared there"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path, text, said):
    """The line names the file, the document, the field and what to do."""
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    refused = refusal(file)
    assert said in refused
    assert str(file) in refused
    assert "\n" not in refused


def test_many_problems_of_one_document_are_counted(tmp_path):
    """The first are told, of the others how many there are."""
    file = tmp_path / "bad.yaml"
    file.write_text(POOL.replace("spec: {", "spec: {a: 1, b: 2, c: 3, d: 4, e: 5, "))
    assert refusal(file).endswith("; and 2 more")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    """So are folders without manifests and files that are no text."""
    assert "No such file" in refusal(tmp_path / "none.yaml")
    assert ".yaml" in refusal(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in refusal(tmp_path)
