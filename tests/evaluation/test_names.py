"""Files that are shown side by side never have the same name, and no longer one than it takes."""

from pathlib import Path

import pytest

from ggufkit.errors import UsageError
from ggufkit.evaluation.names import check_named_once, told_apart


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/m.gguf", "b/n.gguf"], ["m.gguf", "n.gguf"]),
        (["a/m.gguf", "b/m.gguf", "n.gguf"], ["a/m.gguf", "b/m.gguf", "n.gguf"]),
        (["x/en/t.txt", "y/en/t.txt", "y/de/t.txt"], ["x/en/t.txt", "y/en/t.txt", "de/t.txt"]),
        (["a/m.gguf", "a/m.gguf"], ["m.gguf", "m.gguf"]),
        ([], []),
    ],
)
def test_folders_stand_before_names_that_are_there_twice(paths: list[str], names: list[str]) -> None:
    assert told_apart([Path("/work") / path for path in paths]) == names


def test_a_file_at_the_root_has_a_name_too() -> None:
    assert told_apart([Path("/m.gguf"), Path("/a/m.gguf")])[1] == "a/m.gguf"
    assert len(set(told_apart([Path("/m.gguf"), Path("/a/m.gguf")]))) == 2


def test_other_names_are_kept_where_they_tell_apart() -> None:
    assert told_apart([Path("a/prose.txt"), Path("a/code.txt")], ["prose", "code"]) == ["prose", "code"]
    assert told_apart([Path("/a/t.txt"), Path("/b/t.md")], ["t", "t"]) == ["a/t.txt", "b/t.md"]


def test_nothing_is_named_twice(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UsageError, match="is named twice"):
        check_named_once([tmp_path / "a", tmp_path / "b"], "text")
