"""Folders come into place whole or not at all."""

import errno
import os
import subprocess
import sys

import pytest

from ggufkit.errors import OutputError
from ggufkit.llamacpp import trees


def test_folder_appears_when_the_block_ends_well_and_replaces_the_old_one(tmp_path):
    target = tmp_path / "deep" / "dist"
    for content in ("old", "new"):
        with trees.whole_folder(target) as folder:
            (folder / content).touch()
            assert not (target / content).exists()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in target.parent.iterdir()] == ["dist"]


def test_failure_keeps_the_old_folder_and_leaves_nothing(tmp_path):
    target = tmp_path / "dist"
    (target / "old").mkdir(parents=True)

    def be_interrupted():
        with trees.whole_folder(target) as folder:
            (folder / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        be_interrupted()
    assert [path.name for path in target.iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["dist"]


@pytest.mark.fault
def test_leftovers_of_a_killed_run_are_found_and_nothing_else(tmp_path):
    code = f"""
import os, pathlib
from ggufkit.llamacpp import trees
with trees.whole_folder(pathlib.Path({str(tmp_path / "dist")!r})):
    os._exit(9)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    (tmp_path / ".other").mkdir()
    assert len(list(tmp_path.iterdir())) == 2
    trees.remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".other"]


def test_full_disk_is_one_line(tmp_path):
    with pytest.raises(OutputError, match="No space left") as caught, trees.whole_folder(tmp_path / "dist"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "GGUFKIT_CACHE" in (caught.value.hint or "")


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "from"
    (root / "lib").mkdir(parents=True)
    (root / "lib/libx.so.0").write_text("code")
    (root / "lib/libx.so").symlink_to("libx.so.0")
    return root


def test_tree_is_hard_linked_with_its_relative_links(tree, tmp_path):
    target = tmp_path / "to"
    target.mkdir()
    trees.link_tree(tree, target)
    assert (target / "lib/libx.so.0").samefile(tree / "lib/libx.so.0")
    assert str((target / "lib/libx.so").readlink()) == "libx.so.0"


def test_tree_is_copied_where_links_are_not_possible(tree, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)
    target = tmp_path / "to"
    target.mkdir()
    trees.link_tree(tree, target)
    copy = target / "lib/libx.so.0"
    assert copy.read_text() == "code"
    assert not copy.samefile(tree / "lib/libx.so.0")


def test_too_small_a_disk_is_named_before_anything_is_written(tmp_path):
    with pytest.raises(OutputError, match="bytes needed"):
        trees.check_room(tmp_path / "not" / "there", 1 << 60)
    assert not (tmp_path / "not").exists()
