"""What cannot be written is refused before any work."""

import os
from pathlib import Path

import pytest

from ggufkit.errors import OutputError, UsageError
from ggufkit.files import PlannedFile, check_output, check_space


def test_space_is_counted_for_all_files_of_a_file_system(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    half = PlannedFile(tmp_path / "a", free * 2 // 3)
    check_space([half])
    with pytest.raises(OutputError, match="bytes needed"):
        check_space([half, PlannedFile(tmp_path / "b", free * 2 // 3)])


def test_output_equal_to_input_is_refused_however_it_is_spelled(tmp_path: Path) -> None:
    source = tmp_path / "model.gguf"
    source.write_bytes(b"x")
    (tmp_path / "soft").symlink_to(source)
    (tmp_path / "hard").hardlink_to(source)
    (tmp_path / "folder").mkdir()
    for name in ("model.gguf", "soft", "hard", "folder/../model.gguf"):
        with pytest.raises(UsageError, match="same file"):
            check_output(tmp_path / name, inputs=[source])


def test_outputs_that_cannot_be_written_are_refused_first(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "exists").write_bytes(b"")
    with pytest.raises(UsageError, match="is a folder"):
        check_output(tmp_path / "folder")
    with pytest.raises(OutputError, match="not a regular file"):
        check_output(tmp_path / "fifo")
    with pytest.raises(OutputError, match="broken symbolic link"):
        check_output(tmp_path / "broken")
    with pytest.raises(OutputError, match="does not exist"):
        check_output(tmp_path / "missing" / "file")
    with pytest.raises(OutputError, match="too long"):
        check_output(tmp_path / ("x" * 250))
    with pytest.raises(OutputError, match="exists"):
        check_output(tmp_path / "exists", overwrite=False)
    check_output(tmp_path / "exists")


def test_a_write_protected_file_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder's permission would be enough for a rename."""
    target = tmp_path / "file"
    target.write_bytes(b"precious")
    monkeypatch.setattr(os, "access", lambda path, _mode: path != target)  # root may write everywhere
    with pytest.raises(OutputError, match="write-protected"):
        check_output(target)
