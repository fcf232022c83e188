"""The two forms of a promise: the small one of `make test`, and ten times as much of it in `make soak`.

A test that `@pytest.mark.soak("what is promised")` marks asks for `times`, which is 1 or what `--times` says,
and makes its counts of it: `range(10 * times)` restarts. With `repeat=True` the whole test is run so often,
with `repeat=0.3` three times in ten.
What happened it gives to `account`, which fails on a loss; `--soak-report FILE` writes all accounts down.
"""

import os
import platform
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis

from ledger import Verdict

FULL = 10
TALLY = ("sent", "lost", "duplicated", "unexpected", "extra_runs", "counted")
"""What stands in columns of its own; other figures are written beside their names."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("soak")
    group.addoption(
        "--times", type=int, default=1, help=f"multiplies the counts of soak tests; {FULL} is the full form"
    )
    group.addoption("--minutes", type=float, help="begin no further test after so many minutes")
    group.addoption(
        "--soak-report", type=Path, metavar="FILE", help="write what the soak tests accounted for"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "soak(promise, repeat=False): belongs to `make soak`; see tests/soak.py"
    )
    config.pluginmanager.register(Soak(config))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    mark = metafunc.definition.get_closest_marker("soak")
    share = 0 if mark is None else mark.kwargs.get("repeat", 0)
    rounds = round(share * metafunc.config.getoption("times"))
    if rounds > 1:
        metafunc.fixturenames.append("_round")
        metafunc.parametrize("_round", range(1, rounds + 1), ids=lambda number: f"round {number}")


@pytest.fixture
def _round():
    """The number of a repetition; nobody looks at it."""


@pytest.fixture(scope="session")
def times(pytestconfig: pytest.Config) -> int:
    """By how much the counts of the small form are multiplied."""
    return pytestconfig.getoption("times")


@pytest.fixture
def account(record_property):
    """A function that puts figures, and what a ledger says, on record; it fails on a loss."""

    def account(verdict: Verdict | None = None, **figures: float) -> None:
        if verdict is not None:
            figures = verdict.figures() | {"counted": 0} | figures
        for name, value in figures.items():
            record_property(name, value)
        if verdict is not None:
            assert not verdict.lost
            assert not verdict.unexpected
            # a task may be lost between its hand-over, which the broker sees, and its first line
            assert verdict.extra_runs <= figures["counted"]

    return account


@dataclass
class Promise:
    """What became of the tests of one promise."""

    found: int = 0
    outcomes: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        """Add a figure to those of other tests; of figures that are seconds, the longest counts."""
        known = self.figures.get(name, 0)
        self.figures[name] = max(known, value) if name.endswith("_seconds") else known + value

    @property
    def ran(self) -> str:
        """How many of its tests passed, and what became of the others."""
        counts = Counter(self.outcomes.values())
        passed = counts.pop("passed", 0)
        counts["not run"] = self.found - len(self.outcomes)
        return ", ".join(
            [
                f"{passed} of {self.found} passed",
                *(f"{count} {what}" for what, count in counts.items() if count),
            ]
        )


class Soak:
    """Follows a run: ends it when its time is over, and writes the report."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.path: Path | None = config.getoption("soak_report")
        self.promises: dict[str, Promise] = {}
        self.began = datetime.now(UTC)
        self._of: dict[str, Promise] = {}
        minutes = config.getoption("minutes")
        self._until = None if minutes is None else time.monotonic() + 60 * minutes

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Note all that could be run, before anything is deselected."""
        for item in items:
            mark = item.get_closest_marker("soak")
            if mark is not None:
                promise = self._of[item.nodeid] = self.promises.setdefault(mark.args[0], Promise())
                promise.found += 1

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Pass over what would begin too late."""
        return True if self._until is not None and time.monotonic() > self._until else None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        promise = self._of.get(report.nodeid)
        if promise is None:
            return
        promise.seconds += report.duration
        if report.when == "call" or report.outcome != "passed":
            promise.outcomes[report.nodeid] = report.outcome
        if report.when == "teardown":
            for name, value in report.user_properties:
                if isinstance(value, int | float):
                    promise.add(name, value)

    def pytest_sessionfinish(self) -> None:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(self.text())

    def text(self) -> str:
        """The report as Markdown."""
        outcomes = {node: how for promise in self.promises.values() for node, how in promise.outcomes.items()}
        failed = sorted(node for node, how in outcomes.items() if how == "failed")
        lost = sum(promise.figures.get("lost", 0) for promise in self.promises.values())
        ended = datetime.now(UTC)
        options = self.config.option
        parts = [
            f"{name} `{value}`"
            for name, value in (
                ("-m", options.markexpr),
                ("-k", options.keyword),
                ("--minutes", options.minutes),
            )
            if value not in ("", None)
        ]
        lines = [
            "# Soak report",
            "",
            "Written by `make soak`; [development.md](../development.md) says what it runs.",
            "",
            "| | |",
            "|---|---|",
            f"| date | {self.began:%Y-%m-%d %H:%M} UTC, {_minutes((ended - self.began).total_seconds())} |",
            f"| commit | {_commit(self.config.rootpath)} |",
            f"| machine | {_machine()} |",
            f"| form | {options.times} times the small one; the full one is {FULL} times it |",
            f"| selected | {', '.join(parts) or 'everything'} |",
            f"| tests | {len(outcomes)} of {len(self._of)} ran, {len(failed)} failed |",
            f"| tasks lost | {lost} |",
            "",
            "Extra runs are those that the tasks' own ledger shows, counted those that the broker counted;",
            "of figures in seconds the longest is given.",
            "",
            f"| promise | tests | what was done | {' | '.join(map(_words, TALLY))} | time |",
            f"|---|---|---|{'---:|' * (len(TALLY) + 1)}",
            *(self._row(name, promise) for name, promise in sorted(self.promises.items())),
            "",
        ]
        if failed:
            lines += ["Failed:", "", *(f"- `{node}`" for node in failed), ""]
        return "\n".join(lines)

    @staticmethod
    def _row(name: str, promise: Promise) -> str:
        done = ", ".join(
            f"{_words(what)} {_number(value)}" for what, value in promise.figures.items() if what not in TALLY
        )
        tally = [_number(promise.figures[what]) if what in promise.figures else "" for what in TALLY]
        seconds = _minutes(promise.seconds) if promise.outcomes else ""
        return f"| {' | '.join([name, promise.ran, done, *tally, seconds])} |"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.1f}"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _commit(folder: Path) -> str:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":!docs/reports")
    return (git("rev-parse", "--short=10", "HEAD") or "none") + (", with changes" if changed else "")


def _machine() -> str:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    server = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=False).stdout
    version = next((word[2:] for word in server.split() if word.startswith("v=")), "none")
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, Redis {version}, redis-py {redis.__version__}"
    )
