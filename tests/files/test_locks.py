"""One run at a time writes an output, where the file system can tell."""

import errno
import os
import signal
from pathlib import Path

import pytest

from ggufkit.errors import OutputError
from ggufkit.files import atomic_output, write_atomically
from ggufkit.files.locks import locked


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with atomic_output(target) as temporary:
        temporary.write_bytes(b"first")
        with pytest.raises(OutputError, match=f"being written by process {os.getpid()}"), atomic_output(target):
            pass
    assert target.read_bytes() == b"first"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_written_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def no_locks(_descriptor: int, _operation: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("fcntl.flock", no_locks)
    target = tmp_path / "model.gguf"
    ours, dead = (tmp_path / f".model.gguf.{number}.ggufkit-part" for number in (os.getppid(), 2**22 + 1))
    for path in (ours, dead):
        path.write_bytes(b"of another run")
    write_atomically(target, b"new")
    assert target.read_bytes() == b"new"
    assert leftovers(tmp_path) == [ours.name]  # whose process lives, and may be writing it


def test_a_lock_that_the_disk_fails_to_give_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("fcntl.flock", fails)
    with pytest.raises(OutputError, match="cannot write"):
        write_atomically(tmp_path / "model.gguf", b"new")
    assert leftovers(tmp_path) == []
    held = tmp_path / ".model.gguf.ggufkit-lock"
    held.write_text(str(os.getpid()))
    with pytest.raises(OutputError, match="cannot write"):
        write_atomically(tmp_path / "model.gguf", b"new")
    assert leftovers(tmp_path) == [held.name]  # whose process lives


@pytest.mark.parametrize("moment", ["os.open", "fcntl.flock", "os.fstat", "os.truncate", "os.pwrite"])
def test_a_signal_while_the_lock_is_taken_leaves_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    module, name = moment.split(".")
    real = getattr(__import__(module), name)

    def interrupted(*arguments: object) -> object:
        result = real(*arguments)
        os.kill(os.getpid(), signal.SIGINT)
        return result

    monkeypatch.setattr(moment, interrupted)
    with pytest.raises(KeyboardInterrupt), locked(tmp_path / "model.gguf"):
        pytest.fail("the block must not be entered")
    monkeypatch.undo()
    assert leftovers(tmp_path) == []
    write_atomically(tmp_path / "model.gguf", b"new")


def test_a_signal_while_the_lock_is_given_back_leaves_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink = Path.unlink

    def interrupted(path: Path, missing_ok: bool = False) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        unlink(path, missing_ok)

    with pytest.raises(KeyboardInterrupt), locked(tmp_path / "model.gguf"):
        monkeypatch.setattr(Path, "unlink", interrupted)
    monkeypatch.undo()
    assert leftovers(tmp_path) == []
