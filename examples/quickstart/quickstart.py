"""The quickstart's tasks: look at one source file, and sum up what was found so far.

Workers run this (`muster -A quickstart worker`), the client `submit.py` imports it. What is found goes into a
small SQLite database, as a web application's tasks would write to theirs.
"""

import hashlib
import json
import keyword
import os
import re
import sqlite3
import tempfile
from collections import Counter
from contextlib import closing
from pathlib import Path

from muster import Muster

app = Muster("quickstart")
app.conf.task_default_queue = "files"

DATABASE = os.environ.get("QUICKSTART_DATABASE") or Path(tempfile.gettempdir()) / "quickstart.db"
NAME = re.compile(r"[^\W\d]\w*")


@app.task
def look(path):
    """Count lines, words and names of a file. Running twice does no harm: a file has one row."""
    content = Path(path).read_bytes()
    text = content.decode(errors="replace")
    lines, words = text.count("\n"), len(text.split())
    names = Counter(name for name in NAME.findall(text) if not keyword.iskeyword(name))
    row = path, lines, words, hashlib.sha256(content).hexdigest(), json.dumps(names)
    with closing(database()) as found, found:
        found.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", row)
        found.execute("INSERT INTO runs VALUES (?)", (path,))
    return lines


@app.task
def summarize():
    """Add a line about what was found so far. The Schedule sends this every two seconds."""
    with closing(database()) as found, found:
        found.execute("INSERT INTO summaries SELECT count(*), total(lines), total(words) FROM files")


def database():
    """Return a connection to what was found."""
    return sqlite3.connect(DATABASE, timeout=30)


def empty():
    """Begin with nothing found."""
    with closing(database()) as found, found:
        found.executescript("""
            PRAGMA journal_mode = WAL;
            DROP TABLE IF EXISTS files; DROP TABLE IF EXISTS runs; DROP TABLE IF EXISTS summaries;
            CREATE TABLE files (path TEXT PRIMARY KEY, lines INTEGER, words INTEGER, sha256 TEXT, names TEXT);
            CREATE TABLE runs (path TEXT);
            CREATE TABLE summaries (files INTEGER, lines INTEGER, words INTEGER);
        """)


def summaries():
    """Return what each summary said: files, lines and words until then."""
    with closing(database()) as found:
        return found.execute("SELECT files, lines, words FROM summaries ORDER BY rowid").fetchall()


def totals():
    """Return what was found in all files together."""
    names = Counter()
    together = hashlib.sha256()
    with closing(database()) as found:
        count, lines, words = found.execute("SELECT count(*), sum(lines), sum(words) FROM files").fetchone()
        for sha256, counted in found.execute("SELECT sha256, names FROM files ORDER BY path"):
            names.update(json.loads(counted))
            together.update(sha256.encode())
        [(runs,)] = found.execute("SELECT count(*) FROM runs")
    return {
        "files": count,
        "lines": lines,
        "words": words,
        "names": sorted(names.items(), key=lambda item: (-item[1], item[0]))[:5],
        "sha256": together.hexdigest(),
        "runs": runs,
        "summaries": summaries(),
    }
