"""What interrupted evaluations leave: found again by the same one, tidied up when nobody comes back."""

import os
import time
from pathlib import Path

import pytest

from ggufkit.errors import OutputError
from ggufkit.evaluation.workplace import KEPT_DAYS, workplace
from ggufkit.files import locked


class StoppedError(Exception):
    pass


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("some words")
    return path


def interrupted(root: Path, text: Path, settings: str = "", content: bytes = b"done") -> tuple[Path, list[str]]:
    """Do half of an evaluation; return its folder and what was said."""
    notes: list[str] = []
    folders: list[Path] = []

    def half() -> None:
        with workplace(root, [text], settings, notes.append) as folder:
            folders.append(folder)
            (folder / "half").write_bytes(content)
            raise StoppedError

    with pytest.raises(StoppedError):
        half()
    return folders[0], notes


def silent(_: str) -> None:
    pass


def test_the_same_evaluation_finds_what_was_done(tmp_path: Path, text: Path):
    folder, [note] = interrupted(tmp_path / "root", text)
    assert str(folder) in note
    assert "same command" in note
    with workplace(tmp_path / "root", [text], "", silent) as again:
        assert again == folder
        assert (folder / "half").read_bytes() == b"done"
    assert list((tmp_path / "root").iterdir()) == []


def test_where_nothing_was_done_nothing_stays(tmp_path: Path, text: Path):
    notes: list[str] = []

    def hardly_begun() -> None:
        with workplace(tmp_path / "root", [text], "", notes.append) as folder:
            for name in ("tokenize.json", "text-tokens.0", "0123.prompts.jsonl", "base.nll.request.json"):
                (folder / name).write_text("made in a moment")
            raise StoppedError

    with pytest.raises(StoppedError):
        hardly_begun()
    assert notes == []
    assert list((tmp_path / "root").iterdir()) == []


def test_what_nobody_came_back_for_goes_after_a_week(tmp_path: Path, text: Path):
    folder, _ = interrupted(tmp_path / "root", text)
    for days, stays in ((KEPT_DAYS - 1, True), (KEPT_DAYS + 1, False)):
        past = time.time() - days * 86400
        for path in (*folder.iterdir(), folder):
            os.utime(path, (past, past))
        with workplace(tmp_path / "root", [text], "another", silent):
            assert folder.exists() is stays


def test_what_was_begun_with_a_file_that_has_changed_goes(tmp_path: Path, text: Path):
    folder, _ = interrupted(tmp_path / "root", text)
    text.write_text("other words, which no run goes on with")
    with workplace(tmp_path / "root", [text], "", silent) as other:
        assert other != folder
        assert not folder.exists()


def test_what_is_at_work_is_left_alone(tmp_path: Path, text: Path):
    folder, _ = interrupted(tmp_path / "root", text)
    text.write_text("other words, which no run goes on with")
    with locked(folder), workplace(tmp_path / "root", [text], "", silent):
        assert (folder / "half").exists()
    with (
        workplace(tmp_path / "root", [text], "", silent),
        pytest.raises(OutputError, match="is being written"),
        workplace(tmp_path / "root", [text], "", silent),
    ):
        pass


def test_what_is_not_ours_is_left_alone(tmp_path: Path, text: Path):
    root = tmp_path / "root"
    (root / "thesis").mkdir(parents=True)
    (root / "0123456789abcdef").symlink_to(tmp_path)
    for path in (root / "thesis", text):
        os.utime(path, (0, 0))
    with workplace(root, [text], "", silent):
        pass
    assert (root / "thesis").exists()
    assert text.exists()
