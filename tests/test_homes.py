"""Home folders where there are none, as in a container that runs as a number."""

import os
import tempfile
from pathlib import Path

import pytest

from ggufkit.errors import InputError, UsageError
from ggufkit.homes import expanded, home_folder


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_who_has_no_home_gets_a_folder_that_only_they_can_read(homeless: Path) -> None:
    folder = home_folder()
    assert folder.parent == homeless
    assert folder.stat().st_mode & 0o777 == 0o700
    assert home_folder() == folder


def test_a_folder_that_somebody_else_has_put_there_is_not_used(homeless: Path) -> None:
    (homeless / "theirs").mkdir()
    (homeless / f"ggufkit-of-{os.getuid()}").symlink_to("theirs")
    with pytest.raises(UsageError, match="somebody else's"):
        home_folder()


def test_whose_home_is_not_known_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert expanded("~/x") == Path("/somewhere/x")
    assert expanded("a/~b") == Path("a/~b")
    with pytest.raises(InputError, match="~nosuchuser/x: there is no such home folder"):
        expanded("~nosuchuser/x")
