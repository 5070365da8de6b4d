"""What writes records for replay, when the disk does not take them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from engines import eventually
from test_journal_failures import Tapes, Written

from dia2stream.journal.writer import Recorder, RecordFiles


def texts(folder: Path) -> list[bytes]:
    return sorted(path.read_bytes() for path in folder.iterdir())


def test_a_conversation_that_a_disk_has_refused_is_recorded_no_more_and_fills_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, tapes = Recorder(str(tmp_path)), Tapes()
    real = RecordFiles.put

    def put(files: RecordFiles, data: bytes | None) -> None:
        if data == b"one;":
            raise OSError("no space left")
        real(files, data)

    monkeypatch.setattr(RecordFiles, "put", put)
    refused: Written = recorder.begin("a", tapes)  # type: ignore[arg-type, assignment]
    fork: Written = recorder.begin("b", tapes, is_fork=True)  # type: ignore[arg-type, assignment]
    other: Written = recorder.begin("c", tapes)  # type: ignore[arg-type, assignment]
    later: Any = [b"two;", SimpleNamespace(copy=fork), b"three;"]
    refused.notes.extend([b"one;", *later])
    fork.notes.append(b"of the fork;")
    other.notes.append(b"another;")
    eventually(lambda: not other.notes and not refused.notes and not fork.notes)
    refused.notes.append(b"four;")
    eventually(lambda: not refused.notes)
    recorder.end(refused)  # type: ignore[arg-type]
    recorder.close()
    assert texts(tmp_path) == [b"another;"]
