"""What killed runs left goes away, and nothing else."""

import os
import sys
from pathlib import Path

import pytest

from ggufkit.files import remove_leftovers, resumable_output, write_atomically


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_what_a_dead_run_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    dead = tmp_path / ".file.99999.ggufkit-part"
    other = tmp_path / ".file2.99999.ggufkit-part"
    dead.write_bytes(b"half")
    other.write_bytes(b"half")
    write_atomically(tmp_path / "file", b"whole")
    assert leftovers(tmp_path) == [other.name]


def finish_one_output_and_note_it(folder: Path) -> None:
    """What a run that can go on does for one file; one that is noted is not made again."""
    remove_leftovers(folder)
    if not (folder / "note").exists():
        with resumable_output(folder / "model.gguf", size=5) as partial:
            partial.journal.write_bytes(b"")
            partial.path.write_bytes(b"whole")
        write_atomically(folder / "note", b"whole too")


def dies_before_step(number: int, folder: Path) -> bool:
    """Do the work in a child that dies just before it opens, renames, removes or cuts a file for the n-th time."""
    child = os.fork()
    if child == 0:
        steps = 0

        def watch(event: str, _: object) -> None:
            nonlocal steps
            if event in {"open", "os.rename", "os.remove", "os.truncate"}:
                steps += 1
                if steps == number:
                    os._exit(9)

        sys.addaudithook(watch)
        finish_one_output_and_note_it(folder)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.fault
def test_killed_at_any_step_the_next_run_leaves_nothing_behind(tmp_path: Path) -> None:
    for step in range(1, 100):
        folder = tmp_path / str(step)
        folder.mkdir()
        died = dies_before_step(step, folder)
        finish_one_output_and_note_it(folder)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
            "model.gguf": b"whole",
            "note": b"whole too",
        }
        if not died:
            break
    assert 15 < step < 99
