"""Measure Muster beside Celery on the same servers, in one run: `make bench` calls this.

Prints ratios first, then the figures, and writes both to docs/reports/ when asked to (`--report`).
"""

import argparse
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import on_rabbitmq
import redis

HERE = Path(__file__).parent
CACHE = HERE.parent / ".cache" / "bench"
CELERY = "celery[redis]==5.7.0"
WARM_UP = 200


def celery_environment() -> Path:
    """Return the Python of an environment that holds Celery alone, making it at the first call."""
    python = CACHE / "celery" / "bin" / "python"
    stamp = CACHE / "celery" / "installed"
    if not stamp.exists() or stamp.read_text() != CELERY:
        print(f"making an environment with {CELERY} …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", CACHE / "celery"], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", CELERY], check=True)
        stamp.write_text(CELERY)
    return python


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def redis_server() -> Iterator[redis.Redis]:
    """A Redis server of our own, in memory: a disk would be measured instead of the engines."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""],
            stdout=subprocess.DEVNULL,
        )
        try:
            client = redis.Redis(port=port)
            until(lambda: answers(client), "redis-server answers")
            os.environ["BENCH_URL"] = f"redis://127.0.0.1:{port}/0"
            yield client
            client.close()
        finally:
            server.terminate()
            server.wait()


def answers(client: redis.Redis) -> bool:
    try:
        return client.ping()
    except redis.ConnectionError:
        return False


def until(condition, what, seconds=180.0, pause=0.005):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"bench: after {seconds:.0f} s still not: {what}")
        time.sleep(pause)


class Engine:
    """One of the two: how its worker and its client are started."""

    def __init__(self, name, python, module, worker):
        self.name = name
        self.python = python
        self.module = module
        self.worker_arguments = worker

    def client(self, what, count):
        command = [self.python, HERE / "client.py", self.module, what, str(count)]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)

    @contextmanager
    def started(self, *arguments, **environment):
        """A worker, from its start."""
        process = subprocess.Popen(
            [self.python, *self.worker_arguments, "-l", "WARNING", *arguments],
            cwd=HERE,
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    @contextmanager
    def worker(self, server, *arguments, **environment):
        """A worker that has run its first tasks."""
        with self.started(*arguments, **environment) as process:
            stage(server, "bench.noop", WARM_UP)
            server.rename("staged", "celery")
            until(lambda: results(server) >= WARM_UP, f"{self.name}'s worker has run its first tasks")
            yield process
        server.flushdb()


TEMPLATES: dict[str, bytes] = {}


def learn(server, python):
    """Take one message of each task from Celery's own client: what is staged are its copies."""
    for name in ("noop", "quiet"):
        code = f"import tasks_celery as t; t.{name}.delay()"
        subprocess.run([python, "-c", code], check=True, cwd=HERE)
        TEMPLATES[f"bench.{name}"] = server.rpop("celery")
    server.flushdb()


def stage(server, task, count):
    """Put `count` messages under another key, each with an id and a delivery tag of its own."""
    envelope = json.loads(TEMPLATES[task])
    task_id = envelope["headers"]["id"].encode()
    tag = envelope["properties"]["delivery_tag"].encode()  # Celery's claims are filed under it
    batch = []
    for number in range(count):
        new = f"{number:08d}-0000-4000-8000-{time.monotonic_ns() % 10**12:012d}".encode()
        batch.append(TEMPLATES[task].replace(task_id, new).replace(tag, new))
        if len(batch) == 1000:
            server.lpush("staged", *batch)
            batch = []
    if batch:
        server.lpush("staged", *batch)


def results(server):
    return sum(1 for _ in server.scan_iter("celery-task-meta-*", count=1000))


def consume(engine, server, task, count, *arguments, **environment):
    """Tasks a second of one worker with two prefork processes."""
    with engine.worker(server, "-P", "prefork", "-c", "2", *arguments, **environment):
        server.flushdb()
        stage(server, task, count)
        start = time.perf_counter()
        server.rename("staged", "celery")
        until(lambda: not (server.llen("celery") or server.hlen("unacked")), "all messages acked", pause=0.01)
        seconds = time.perf_counter() - start
        if task == "bench.noop" and results(server) != count:
            raise SystemExit(f"bench: {engine.name} left {results(server)} results of {count}")
        return count / seconds


def resident_mib(process):
    """Resident memory of one process, MiB."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(count: int, *, only_rabbitmq: bool = False) -> dict[str, dict[str, float]]:
    """Run everything, or what concerns RabbitMQ; return figures by case and engine."""
    python = celery_environment()
    celery = Engine("Celery", python, "tasks_celery", ["-m", "celery", "-A", "tasks_celery", "worker"])
    muster = Engine(
        "Muster", sys.executable, "tasks_muster", ["-m", "muster", "-A", "tasks_muster", "worker"]
    )
    metrics = ("--metrics-address", "127.0.0.1:0")
    figures: dict[str, dict[str, float]] = {}
    with redis_server() as server:
        if only_rabbitmq:
            return rabbitmq_cases(celery, muster, server, python, count // 2, metrics)
        learn(server, python)
        for title, task in (
            ("consume, with results", "bench.noop"),
            ("consume, results ignored", "bench.quiet"),
        ):
            figures[title] = {
                "Celery": consume(celery, server, task, count),
                "Celery, prefetch 64": consume(celery, server, task, count, BENCH_PREFETCH="64"),
                "Muster": consume(muster, server, task, count, *metrics),
            }
            print(title, figures[title], flush=True)
        waits = {}
        for engine, more in ((celery, ()), (muster, metrics)):
            with engine.worker(server, "-P", "prefork", "-c", "2", *more):
                waits[engine.name] = engine.client("latency", 300)
        figures["latency p50, ms"] = {name: w[len(w) // 2] * 1e3 for name, w in waits.items()}
        figures["latency p95, ms"] = {name: w[int(len(w) * 0.95)] * 1e3 for name, w in waits.items()}
        memory = {}
        for engine, more in ((celery, ()), (muster, metrics)):
            with engine.worker(server, "-P", "solo", *more) as process:
                time.sleep(2)  # idle, as is asked
                memory[engine.name] = resident_mib(process)
        figures["idle solo worker, MiB"] = memory
        figures["publish, calls/s"] = {
            engine.name: 5000 / engine.client("publish", 5000) for engine in (celery, muster)
        }
        figures |= rabbitmq_cases(celery, muster, server, python, count // 2, metrics)
    return figures


def rabbitmq_cases(celery, muster, backend, python, count, metrics):
    """Return the consume cases on RabbitMQ; results are kept on Redis for both."""
    figures = {}
    with on_rabbitmq.server() as broker:
        for queue_type in ("classic", "quorum"):
            for title, task in (("with results", "noop"), ("results ignored", "quiet")):
                case = (broker, backend, python, queue_type, task, count)
                figures[f"consume from RabbitMQ, {queue_type} queue, {title}"] = by = {
                    "Celery": on_rabbitmq.consume(celery, *case),
                    "Celery, prefetch 64": on_rabbitmq.consume(celery, *case, BENCH_PREFETCH="64"),
                    "Muster": on_rabbitmq.consume(muster, *case, *metrics),
                }
                print(queue_type, title, by, flush=True)
    return figures


def report(figures: dict[str, dict[str, float]], count: int) -> str:
    """Return the whole run as Markdown, ratios first."""
    lower_is_better = ("latency", "idle")
    lines = [
        f"# Muster beside Celery, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"Python {platform.python_version()}, {CELERY}, {os.cpu_count()} processors, {count:,} tasks a case.",
        "",
        "| Case | Muster is better by | Muster | Celery | Celery, prefetch 64 |",
        "|---|---|---|---|---|",
    ]
    for case, by in figures.items():
        best = (
            by["Celery"] / by["Muster"] if case.startswith(lower_is_better) else by["Muster"] / by["Celery"]
        )
        cells = [
            f"{by[name]:,.2f}" if name in by else "" for name in ("Muster", "Celery", "Celery, prefetch 64")
        ]
        lines.append(f"| {case} | **{best:.1f} times** | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="tasks of each consume case")
    parser.add_argument("--only-rabbitmq", action="store_true", help="leave the cases on Redis out")
    parser.add_argument("--report", type=Path, help="write the run as Markdown to this file")
    options = parser.parse_args()
    text = report(measure(options.count, only_rabbitmq=options.only_rabbitmq), options.count)
    print("\n" + text)
    if options.report:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.write_text(text)


if __name__ == "__main__":
    main()
