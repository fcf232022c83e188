"""What is made of the types is current, and the command says so."""

from pathlib import Path

import yaml

from muster_operator.api.conditions import ConditionType, Reason
from muster_operator.api.crd import crd
from muster_operator.api.generate import generated, main
from muster_operator.api.manifests import KINDS
from muster_operator.api.meta import fields_of, rules_of

REFERENCE = "docs/reference/resources.md"


def test_the_checkout_is_current():
    """The files of this checkout are what the types say."""
    assert main(["--check"]) == 0


def test_it_writes_everything_once(tmp_path: Path):
    """Into an empty folder it writes a CRD for each kind and the page; a second run finds nothing to do."""
    assert main(["--root", str(tmp_path)]) == 0
    written = {str(path.relative_to(tmp_path)): path for path in tmp_path.rglob("*") if path.is_file()}
    assert written.keys() == {
        "crds/muster.dev_taskqueues.yaml",
        "crds/muster.dev_workerpools.yaml",
        "crds/muster.dev_schedules.yaml",
        "docs/reference/brokers.md",
        REFERENCE,
    }
    times = {name: path.stat().st_mtime_ns for name, path in written.items()}
    assert main(["--root", str(tmp_path)]) == 0
    assert {name: path.stat().st_mtime_ns for name, path in written.items()} == times


def test_the_yaml_is_the_document(tmp_path: Path):
    """What a YAML reader finds in a file is the CRD, and its first line says where it comes from."""
    main(["--root", str(tmp_path)])
    for kind in KINDS:
        text = (tmp_path / f"crds/muster.dev_{kind.plural}.yaml").read_text()
        assert text.startswith(
            "# Made of operator/muster_operator/api by `python -m muster_operator.api.generate`"
        )
        assert yaml.safe_load(text) == crd(kind)


def test_a_difference_is_named_and_left_alone(tmp_path: Path, capsys):
    """--check fails with the file's name and the remedy, and writes nothing."""
    main(["--root", str(tmp_path)])
    changed = tmp_path / REFERENCE
    changed.write_text("changed by hand")
    (tmp_path / "crds/muster.dev_schedules.yaml").unlink()
    assert main(["--check", "--root", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said == (
        "not current: crds/muster.dev_schedules.yaml, docs/reference/resources.md; "
        "run `python -m muster_operator.api.generate`\n"
    )
    assert changed.read_text() == "changed by hand"


def test_the_page_names_every_field_sentence_and_reason():
    """Whatever a user may write, read or be told is on the reference page."""
    page = generated()[REFERENCE]
    for kind in KINDS:
        spec, status = (each.hint for each in fields_of(kind.cls) if each.name != "metadata")
        names = [each.json_name for cls in (spec, status) for each in fields_of(cls)]
        assert [name for name in names if f"| `{name}` |" not in page] == []
        assert [each.message for each in rules_of(kind.cls) if each.message not in page] == []
    assert [word for word in (*Reason, *ConditionType) if f"| `{word}` | {word.meaning} |" not in page] == []


def test_the_pages_tables_are_whole():
    """Each row of a table has as many cells as its head, whatever stands in them."""
    width = 0
    for line in generated()[REFERENCE].splitlines():
        if not line.startswith("|"):
            width = 0
            continue
        cells = line.replace("\\|", "").count("|")
        width = width or cells
        assert cells == width, line
