"""Parts of a model are whole together or not there, also where the disk fails between two of them."""

import errno
import os
import signal
from pathlib import Path

import pytest

from ggufkit.errors import OutputError
from ggufkit.quantization import split_output
from ggufkit.quantization.split_output import atomic_parts


def write(parts: list[Path]) -> None:
    with atomic_parts(parts, [4] * len(parts)) as folder:
        for part in parts:
            (folder / part.name).write_bytes(part.stem.encode())


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    return [tmp_path / f"m-{number}.gguf" for number in (1, 2, 3)]


def test_a_disk_that_fails_before_any_part_has_its_name_leaves_nothing(
    parts: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = split_output.sync

    def fails_for_the_folder(path: Path) -> None:
        if path.is_dir():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(path)

    monkeypatch.setattr(split_output, "sync", fails_for_the_folder)
    with pytest.raises(OutputError, match="cannot write"):
        write(parts)
    assert list(parts[0].parent.iterdir()) == []


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_signal_among_the_names_is_heard_when_all_are_given(
    number: int, parts: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.replace

    def interrupted(path: Path, target: Path) -> Path:
        moved = real(path, target)
        if path.name == parts[number].name:
            os.kill(os.getpid(), signal.SIGINT)
        return moved

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(parts)
    assert {path.name: path.read_text() for path in parts[0].parent.iterdir()} == {
        path.name: path.stem for path in parts
    }


def test_a_name_that_cannot_be_given_is_given_by_the_next_run(
    parts: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.replace

    def fails_for_the_last(path: Path, target: Path) -> Path:
        if target == parts[2]:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", fails_for_the_last)
        with pytest.raises(OutputError, match="cannot write"):
            write(parts)
    assert not parts[0].exists()  # without which the others are no model
    write(parts)
    assert {path.name: path.read_text() for path in parts[0].parent.iterdir() if path in parts} == {
        path.name: path.stem for path in parts
    }
