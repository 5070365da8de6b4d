"""Files in the user's cache folder: whole or not there, and nothing is left beside them."""

from pathlib import Path

import pytest

from dia2.cuda.user_cache import cache_folder, keep


def test_a_file_is_kept_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = cache_folder("forms") / "card.json"
    for data in (b"longer", b"new"):
        keep(file, data)
        assert file.read_bytes() == data
        assert [*file.parent.iterdir()] == [file]


def test_where_a_file_cannot_be_replaced_nothing_is_left_behind(tmp_path: Path) -> None:
    (tmp_path / "taken" / "inside").mkdir(parents=True)
    keep(tmp_path / "taken", b"data")
    assert [*tmp_path.iterdir()] == [tmp_path / "taken"]


def test_where_there_can_be_no_folder_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"as it was")
    keep(tmp_path / "file" / "below", b"data")
    assert (tmp_path / "file").read_bytes() == b"as it was"
