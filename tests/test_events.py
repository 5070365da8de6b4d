"""Events and the log: JSON lines only where a program reads them, plain text for people."""

import json
import logging
import os
import sys
import warnings

import pytest

from dia2.errors import Dia2Error
from dia2stream.options import ModelOptions, SpeechOptions
from dia2stream.protocol.messages import ResetDone, WordEvent
from dia2stream.stdio import pipe
from dia2stream.stdio.events import Events


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """The streams and the log of this process, as they were."""
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    monkeypatch.setattr(logging.getLogger(), "handlers", list(logging.getLogger().handlers))
    yield
    logging.captureWarnings(False)


def told(capfd) -> list[dict]:
    return [json.loads(line) for line in capfd.readouterr().err.splitlines()]


def test_whatever_is_printed_warned_logged_or_raised_is_json_where_a_program_reads(capfd):
    events = Events(None)
    assert events.only_json
    events.write(ResetDone())
    print("two\nlines")
    print("10 %\r20 %\r", end="", file=sys.stderr)
    print("half", end=" ", file=sys.stderr)
    print("a line", file=sys.stderr)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    try:
        raise ValueError("oops")
    except ValueError:
        logging.getLogger("anything").exception("it failed")
        sys.excepthook(*sys.exc_info())
    first, *logs = told(capfd)
    assert first == {"event": "reset"}
    assert {log["event"] for log in logs} == {"log"}
    messages = [log["message"] for log in logs]
    assert messages[:3] == ["two", "lines", "half a line"]
    assert "DeprecationWarning: old" in messages[3]
    assert messages[4].startswith("it failed\nTraceback")
    assert messages[4].endswith("ValueError: oops")
    assert messages[-1] == "ValueError: oops"


def test_events_are_utf8_whatever_the_locale(capfd, monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")
    Events(None).write(WordEvent("1", "été\u2028", "S1", 0))
    assert capfd.readouterr().err == '{"event":"word","id":"1","word":"été\\u2028","speaker":"S1","start_ms":0}\n'


def test_a_terminal_has_plain_text_beside_the_events():
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    stderr, sys.stderr = sys.stderr, os.fdopen(theirs, "w")
    events = Events(None)
    assert not events.only_json
    assert sys.stderr.isatty()
    events.failed("no such model")
    sys.stderr.close()
    sys.stderr = stderr
    assert os.read(ours, 100) == b"dia2stream: no such model\r\n"
    os.close(ours)


def test_events_go_into_a_file_or_nowhere_and_stderr_stays_plain(capfd, tmp_path):
    for target in (str(tmp_path / "events"), "none"):
        events = Events(target)
        events.write(ResetDone())
        events.failed("why")
        assert capfd.readouterr().err == "dia2stream: why\n"
    assert (tmp_path / "events").read_text() == '{"event":"reset"}\n'


def test_events_that_nobody_reads_any_more_end_nothing(capfd, tmp_path):
    path = tmp_path / "events"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    events = Events(str(path))
    os.close(reading)
    events.write(ResetDone())
    events.write(ResetDone())
    assert capfd.readouterr().err == ""


def test_a_full_disk_is_said_once(capfd):
    events = Events("/dev/full")
    events.write(ResetDone())
    events.write(ResetDone())
    assert capfd.readouterr().err == "dia2stream: events: No space left on device\n"


@pytest.mark.parametrize("target", ["/no/such/folder/events", "."])
def test_a_place_that_cannot_be_written_is_an_error_with_its_name(target):
    with pytest.raises(OSError, match=target):
        Events(target)


def test_a_model_that_is_not_there_is_one_event_and_exit_1(capfd):
    with pytest.raises(SystemExit) as done:
        pipe._load_for_pipe(ModelOptions(model="/no/such/folder"), SpeechOptions(), Events(None))
    assert done.value.code == 1
    [error] = told(capfd)
    assert error.items() >= {"event": "error", "code": "internal"}.items()
    assert "/no/such/folder" in error["message"]


def test_a_model_that_is_not_there_is_left_to_the_command_line_where_events_go_elsewhere(capfd):
    with pytest.raises(Dia2Error, match="/no/such/folder"):
        pipe._load_for_pipe(ModelOptions(model="/no/such/folder"), SpeechOptions(), Events("none"))
    assert capfd.readouterr().err == ""
