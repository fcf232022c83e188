"""The generated half of the chart says what the types say, and is current."""

import json
import re

import pytest
import yaml

from muster_operator.api.manifests import KINDS
from muster_operator.chart.generate import ROOT, generated, main, schema, table
from muster_operator.rbac import rules

CHART = ROOT / "helm/muster"


def leaves(values: dict, described: dict, path: str = ""):
    """Yield (path, value) of each value that the schema describes as one."""
    for name, value in values.items():
        inner = described["properties"][name]
        if "properties" in inner:
            yield from leaves(value, inner, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


@pytest.fixture(scope="module")
def values() -> dict:
    return yaml.safe_load((CHART / "values.yaml").read_text())


def test_the_files_in_the_repository_are_current(capsys):
    """`make generate` would change nothing."""
    assert main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_file_is_named(tmp_path, capsys):
    """--check writes nothing and says which file differs."""
    (tmp_path / "helm/muster").mkdir(parents=True)
    (tmp_path / "helm/muster/README.md").write_text("<!-- values -->\n<!-- /values -->\n")
    assert main(["--root", str(tmp_path)]) == 0
    assert main(["--root", str(tmp_path), "--check"]) == 0
    (tmp_path / "helm/muster/values.yaml").write_text("replicas: 7\n")
    assert main(["--root", str(tmp_path), "--check"]) == 1
    assert "helm/muster/values.yaml" in capsys.readouterr().err
    assert (tmp_path / "helm/muster/values.yaml").read_text() == "replicas: 7\n"


def test_values_schema_and_page_name_the_same_values(values: dict):
    """A value stands in values.yaml, in the schema with the same default, and in the README's table."""
    listed = dict(re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|", table(), re.MULTILINE))
    found = dict(leaves(values, schema()))
    assert {path: json.loads(default) for path, default in listed.items()} == found


def test_every_value_is_read_by_a_template(values: dict):
    """No value is without effect: each is named by a template, by itself or with the object it is part of."""
    text = "".join(path.read_text() for path in (CHART / "templates").rglob("*") if path.is_file())
    for path, _ in leaves(values, schema()):
        last = path.rpartition(".")[2]
        assert re.search(rf"\.{last}\b", text), f"no template reads {path}"


def test_every_template_reads_known_values_only(values: dict):
    """`.Values.x.y` in a template is a value, or a group of them."""
    text = "".join(path.read_text() for path in (CHART / "templates").rglob("*") if path.is_file())
    known = {path for path, _ in leaves(values, schema())}
    groups = {path.rsplit(".", depth)[0] for path in known for depth in range(1, path.count(".") + 1)}
    assert set(re.findall(r"\.Values\.([A-Za-z.]+[A-Za-z])", text)) <= known | groups


def test_the_chart_carries_the_crds(values: dict):
    """The chart's copies are the files of crds/, byte for byte."""
    for kind in KINDS:
        name = f"muster.dev_{kind.plural}.yaml"
        assert (CHART / "files/crds" / name).read_text() == (ROOT / "crds" / name).read_text()


def test_the_chart_and_the_distribution_have_one_version():
    """Chart, application and Python distribution are released together."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert chart["version"] == chart["appVersion"] == version[1]


def test_secrets_are_read_by_name_only():
    """No rule lets the operator list or watch Secrets, or read anything by a wildcard."""
    for part in rules().values():
        for rule in part:
            assert "*" not in {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
            if "secrets" in rule["resources"]:
                assert rule["verbs"] == ["get"]


def test_generated_files_say_so():
    """Whoever opens one learns what it is made of; JSON and Markdown have their own way."""
    for name, text in generated().items():
        if name.endswith(".yaml"):
            assert text.startswith("# Made of operator/muster_operator/"), name
