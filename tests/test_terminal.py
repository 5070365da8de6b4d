"""Progress and notes: bars for people only, and never a word on stdout."""

import os
import sys

import pytest

from dia2stream.terminal import load_progress, note


def test_there_is_no_progress_where_nobody_looks(capfd):
    with load_progress() as progress:
        assert progress is None
    assert capfd.readouterr() == ("", "")


def test_a_terminal_has_a_bar_for_each_stage(capfd, monkeypatch):
    pty = pytest.importorskip("pty")
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with load_progress() as progress:
            progress("loading weights", 1, 4)
            progress("loading weights", 4, 4)
            progress("a stage without an end", 1, 0)
        shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "loading weights" in shown
    assert "a stage without an end" in shown
    assert capfd.readouterr().out == ""


def test_a_note_is_one_line_on_stderr_and_none_where_that_is_closed(capfd, monkeypatch):
    note("hello")
    monkeypatch.setattr(sys, "stderr", None)
    note("nobody hears this")
    with load_progress() as progress:
        assert progress is None
    assert capfd.readouterr() == ("", "dia2stream: hello\n")
