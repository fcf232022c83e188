"""The embedded database: opened by many, broken by none, and what is wrong with a file is said."""

import os
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from muster.core.effects import StoredResult
from muster.embedded import MIGRATIONS, Database, clean, path_of, store_results
from muster.errors import BrokerRefused, BrokerUnavailable, ConfigurationError

NOW = 1_800_000_000.0


@pytest.fixture
def database(tmp_path):
    made = Database(tmp_path / "broker.db")
    yield made
    made.close()


def rows(database, text, *values):
    with database.reading() as connection:
        return connection.execute(text, values).fetchall()


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///relative.db", "relative.db"),
        ("sqlite:///in/a folder.db", "in/a folder.db"),
        ("sqlite:////absolute/file.db", "/absolute/file.db"),
        ("sqlite:////with%20blank.db", "/with blank.db"),
    ],
)
def test_a_url_names_a_file(url, path):
    """Three slashes for a relative path and four for an absolute one, as SQLAlchemy writes them."""
    assert str(path_of(url)) == path


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite://host/file.db", "redis:///file.db"])
def test_a_url_that_names_no_file_is_refused(url):
    """The sentence says how it is written."""
    with pytest.raises(ConfigurationError, match=r"write sqlite:///relative\.db"):
        path_of(url)


def test_many_may_open_a_new_file_at_the_same_time(tmp_path):
    """Whoever comes first makes the tables; nobody fails, and nobody makes them twice."""
    start = threading.Barrier(8)

    def open_and_write(number):
        database = Database(tmp_path / "broker.db")
        start.wait()
        with database.writing() as connection:
            connection.execute("INSERT INTO revoked (task_id, at) VALUES (?, 0)", (str(number),))
        database.close()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(open_and_write, range(8)))
    database = Database(tmp_path / "broker.db")
    assert rows(database, "SELECT count(*) FROM revoked") == [(8,)]
    assert rows(database, "PRAGMA user_version") == [(len(MIGRATIONS),)]
    assert rows(database, "PRAGMA journal_mode") == [("wal",)]
    database.close()


def test_the_file_is_its_owners_alone(database):
    """Arguments of tasks may be private; so are the two files that SQLite puts beside."""
    rows(database, "SELECT 1 FROM messages")
    for path in database.path.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_exception_undoes_the_transaction(database):
    """All of it or nothing, and the next transaction works."""

    def fail():
        with database.writing() as connection:
            connection.execute("INSERT INTO revoked (task_id, at) VALUES ('1', 0)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with database.writing() as connection:
        connection.execute("INSERT INTO revoked (task_id, at) VALUES ('2', 0)")
    assert rows(database, "SELECT task_id FROM revoked") == [("2",)]


def test_the_version_changes_when_another_connection_writes(database, tmp_path):
    """Own writes and mere reads do not change it."""
    other = Database(tmp_path / "broker.db")
    with database.writing() as connection:
        connection.execute("INSERT INTO revoked (task_id, at) VALUES ('1', 0)")
    seen = database.data_version()
    with database.writing() as connection:
        connection.execute("INSERT INTO revoked (task_id, at) VALUES ('2', 0)")
    rows(other, "SELECT * FROM revoked")
    assert database.data_version() == seen
    with other.writing() as connection:
        connection.execute("INSERT INTO revoked (task_id, at) VALUES ('3', 0)")
    assert database.data_version() != seen
    other.close()


def test_a_connection_sees_others_writes_after_a_second_one_was_opened_here(database, tmp_path):
    """Locks belong to the process: whoever opens the file anew must not end those of another connection.

    Without them the last process that closes the file removes the log under a connection that still reads it.
    """
    assert rows(database, "SELECT count(*) FROM results") == [(0,)]
    second = Database(database.path)
    assert rows(second, "SELECT count(*) FROM results") == [(0,)]
    code = """
        import sys
        from pathlib import Path
        from muster.embedded import Database
        database = Database(Path(sys.argv[1]))
        with database.writing() as connection:
            connection.execute("INSERT INTO results VALUES (?, x'', 'SUCCESS', 0, 0)", (sys.argv[2],))
        database.close()
    """
    for count, name in enumerate(("first", "second"), 1):
        subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(database.path), name], check=True)
        assert rows(database, "SELECT count(*) FROM results") == [(count,)]
    second.close()


def test_a_file_that_stays_locked_is_unavailable(database, tmp_path):
    """A stopped process is named as the likely cause; it may go on, so this is no refusal."""
    rows(database, "SELECT 1 FROM messages")
    waiting = Database(tmp_path / "broker.db", patience_seconds=0.02)
    with (
        database.writing(),
        pytest.raises(BrokerUnavailable, match=r"was locked for more than 0\.02 s") as caught,
        waiting.writing(),
    ):
        pass
    assert not isinstance(caught.value, BrokerRefused)
    with waiting.writing():
        pass
    waiting.close()


def test_a_file_of_another_kind_is_refused(database):
    """It is left as it was."""
    database.path.write_text("something else, and long enough to be no empty file" * 20)
    with pytest.raises(BrokerRefused, match="is not a database file of ours"):
        rows(database, "SELECT 1")
    assert database.path.read_text().startswith("something else")


def test_a_file_in_no_folder_is_refused(tmp_path):
    """A folder is not made: its name may be a slip."""
    database = Database(tmp_path / "missing" / "broker.db")
    with pytest.raises(BrokerRefused, match="does its folder exist"):
        rows(database, "SELECT 1")


def test_tables_of_a_newer_version_are_refused(database):
    """An older Muster must not write where it does not know what stands there."""
    with sqlite3.connect(database.path) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(BrokerRefused, match="made by a newer Muster"):
        rows(database, "SELECT 1")


def test_a_ready_result_is_replaced_only_by_a_later_retry(database):
    """SUCCESS stays for ever; FAILURE and REVOKED give way to a run with more retries, any other to all."""

    def store(status, retries, expires_seconds=60, now=NOW):
        with database.writing() as connection:
            result = StoredResult("1", f"{status} {retries}".encode(), status, retries, expires_seconds)
            store_results(connection, [result], now)
        [(document,)] = rows(database, "SELECT document FROM results WHERE task_id = '1'")
        return document.decode()

    assert store("STARTED", 0) == "STARTED 0"
    assert store("RETRY", 0) == "RETRY 0"
    assert store("FAILURE", 1) == "FAILURE 1"
    assert store("SUCCESS", 1) == "FAILURE 1"
    assert store("SUCCESS", 0) == "FAILURE 1"
    assert store("REVOKED", 2) == "REVOKED 2"
    assert store("SUCCESS", 3) == "SUCCESS 3"
    assert store("FAILURE", 4) == "SUCCESS 3"
    assert store("STARTED", 0, expires_seconds=0, now=NOW + 60) == "STARTED 0", "the old one had expired"
    assert rows(database, "SELECT expires_at FROM results") == [(0.0,)]


def test_what_nobody_will_ask_for_is_removed(database):
    """Reports of workers that are gone, mail to them, and results whose time is over."""
    with database.writing() as connection:
        for at in (NOW, NOW - 100_000_000):
            connection.execute("INSERT INTO reports VALUES ('pool', ?, ?, '')", (str(at), at))
            connection.execute("INSERT INTO controls (worker, at, control) VALUES ('one', ?, '')", (at,))
            connection.execute("INSERT INTO revoked VALUES (?, ?)", (str(at), at))
            connection.execute("INSERT INTO results VALUES (?, '', 'SUCCESS', 0, ?)", (str(at), at + 1))
        connection.execute("INSERT INTO results VALUES ('for ever', '', 'SUCCESS', 0, 0)")
        clean(connection, NOW)
    for table, left in {"reports": 1, "controls": 1, "revoked": 1, "results": 2}.items():
        assert rows(database, f"SELECT count(*) FROM {table}") == [(left,)], table


def test_a_process_may_fork_while_its_threads_write(tmp_path):
    """Neither side inherits the other's locks: both go on writing, and nothing is lost or damaged."""
    script = """
        import os, sys, threading
        from pathlib import Path
        from muster.core.effects import Publication
        from muster.transports.sqlite import SQLitePublisher, SQLiteTransport
        url = sys.argv[1]
        publisher = SQLitePublisher(url)
        transport = SQLiteTransport(url, queues=["none"], worker="w", pool="p", lease_seconds=9,
                                    dead_letters={}, results_joined=True)
        transport.watch(print).arm()
        forked = threading.Event()
        written = 0
        def write():
            global written
            while not forked.is_set() or written < 50:
                publisher.publish([Publication("mail", b"{}")])
                written += 1
        threads = [threading.Thread(target=write) for _ in range(1)]
        for thread in threads: thread.start()
        children = []
        for _ in range(5):
            child = os.fork()
            if not child:
                for _ in range(20):
                    publisher.publish([Publication("mail", b"{}")])
                os._exit(0)
            children.append(child)
        forked.set()
        for thread in threads: thread.join()
        for child in children: assert os.waitpid(child, 0)[1] == 0
        transport.close(); publisher.close()
        print(written + 100)
    """
    path = tmp_path / "broker.db"
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script), f"sqlite:///{path}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ,
    )
    assert ran.returncode == 0, ran.stderr
    database = Database(path)
    assert rows(database, "SELECT count(*) FROM messages") == [(int(ran.stdout),)]
    assert rows(database, "PRAGMA integrity_check") == [("ok",)]
    database.close()
