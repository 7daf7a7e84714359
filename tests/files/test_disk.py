"""A disk's errors are told in one line, of the file that they are about."""

import errno
from pathlib import Path

import pytest

from ggufkit.errors import OutputError
from ggufkit.files import atomic_output


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_an_error_about_another_file_names_that_one(tmp_path: Path) -> None:
    folder = tmp_path / "somewhere else"
    folder.mkdir()
    target = folder / "model.gguf"
    for name, said in (
        (str(tmp_path / "input"), f"cannot use {tmp_path}/input: "),
        (str(folder / ".model.gguf.1.ggufkit-part"), f"cannot write {target}: "),
        (str(folder), f"cannot write {target}: "),
        (None, f"cannot write {target}: "),
    ):
        with pytest.raises(OutputError) as caught, atomic_output(target):
            raise PermissionError(errno.EACCES, "Permission denied", name)
        assert str(caught.value).startswith(said)
    assert leftovers(folder) == []
