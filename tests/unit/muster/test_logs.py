"""Log lines as text and as JSON."""

import io
import json
import logging
import re

import pytest

from muster.logs import configure


@pytest.fixture
def root():
    """The root logger, put back as it was afterwards."""
    logger = logging.getLogger()
    before = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:], level = before
    logger.setLevel(level)


def test_text_lines_are_celerys(root):
    """`[time: LEVEL/process] message`, below the level nothing."""
    stream = io.StringIO()
    configure("INFO", "text", stream)
    logging.getLogger("shop").info("%d sent", 3)
    logging.getLogger("shop").debug("unseen")
    assert re.fullmatch(
        r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}: INFO/MainProcess\] 3 sent\n", stream.getvalue()
    )


def test_json_lines_are_objects(root):
    """Each record is one line with what the caller gave as `extra`; an exception is a field of it."""
    stream = io.StringIO()
    configure("WARNING", "json", stream)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("shop").exception("failed ä", extra={"task_id": "7", "odd": object})
    line = json.loads(stream.getvalue())
    assert stream.getvalue().count("\n") == 1
    assert (line["level"], line["logger"], line["msg"], line["task_id"]) == ("error", "shop", "failed ä", "7")
    assert line["ts"].endswith("+00:00")
    assert "ValueError: two\nlines" in line["exception"]
    assert line["odd"] == "<class 'object'>"


def test_configuring_again_replaces(root):
    """A second call leaves one handler: no line twice."""
    configure("INFO", "text", io.StringIO())
    configure("INFO", "json", io.StringIO())
    assert len(root.handlers) == 1
