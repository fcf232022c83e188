"""House rules that a machine can check: what a reader of this repository may rely on."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRACKED = [
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    if name and (ROOT / name).is_file()
]
MODULES = [path for path in TRACKED if path.suffix == ".py"]
SOURCES = [path for path in MODULES if path.relative_to(ROOT).parts[0] in ("operator", "worker_image")]
TESTS = [path for path in MODULES if path.relative_to(ROOT).parts[0] == "tests"]


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The test functions of a file, those in classes too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node


def own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """What a function does itself, without the functions that it defines."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            yield child
            yield from own_nodes(child)


def test_the_listing_is_not_empty():
    """The rules below are checked on the files that git tracks, and there are some."""
    assert SOURCES
    assert TESTS


def test_nothing_names_a_developers_machine():
    """No tracked file holds a path of somebody's machine or an index of packages that only one place has."""
    private = re.compile(r"/work/|/root/|/home/\w|index-url|trusted-host|insecure-registr|GOPROXY=")
    found = [
        f"{shown(path)}:{number}: {line.strip()}"
        for path in TRACKED
        if path.name not in ("go.sum", Path(__file__).name)
        for number, line in enumerate(path.read_bytes().decode(errors="replace").splitlines(), 1)
        if private.search(line)
    ]
    assert found == []


def test_every_module_says_what_it_is_for():
    """Each Python file with code in it begins with a docstring."""
    silent = [
        shown(path)
        for path in MODULES
        if (tree := ast.parse(path.read_text())).body and not ast.get_docstring(tree)
    ]
    assert silent == []


def test_every_test_states_its_fact():
    """Each test function has a docstring."""
    silent = [
        f"{shown(path)}::{function.name}"
        for path in TESTS
        for function in functions(path)
        if not ast.get_docstring(function)
    ]
    assert silent == []


def test_tests_wait_for_conditions():
    """No test function sleeps, unless the same line says why: `waiting.wait_for` waits for a condition."""
    sleeping = [
        f"{shown(path)}::{function.name}"
        for path in TESTS
        for function in functions(path)
        for node in own_nodes(function)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.sleep", "sleep")
        if "  # " not in path.read_text().splitlines()[node.lineno - 1]
    ]
    assert sleeping == []


def test_make_help_lists_every_command():
    """Each target of the Makefile that is no file has its line in `make help`."""
    targets = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    missing = [name for line in targets for name in line.split() if f"make {name} " not in listed]
    assert targets
    assert missing == []


SCRIPTS = [
    path
    for path in TRACKED
    if path.suffix == ".sh" or path.read_bytes()[:20].startswith((b"#!/bin/bash", b"#!/bin/sh"))
]


@pytest.mark.parametrize("script", SCRIPTS, ids=shown)
def test_shell_scripts_can_be_read(script: Path):
    """Each shell script parses, and those that are run may be executed."""
    subprocess.run(["bash", "-n", script], check=True)
    if script.read_bytes().startswith(b"#!"):
        assert script.stat().st_mode & 0o111, f"{shown(script)} is not executable"


def test_links_between_documents_lead_somewhere():
    """Each relative link in a Markdown file names a file or folder of the repository."""
    broken = [
        f"{shown(path)}: {target}"
        for path in TRACKED
        if path.suffix == ".md"
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text())
        if not re.match(r"[a-z+]+:", target) and not (path.parent / target).exists()
    ]
    assert broken == []
