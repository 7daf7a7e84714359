"""Output is whole or absent, and what stood there before stays until the new file is whole."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from ggufkit.errors import OutputError, UsageError
from ggufkit.files import (
    PlannedFile,
    atomic_output,
    check_output,
    check_space,
    remove_leftovers,
    resumable_output,
    write_atomically,
)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_replaces_only_when_the_block_ends_well(tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    target.write_bytes(b"old")

    def fail_half_way() -> None:
        with atomic_output(target) as temporary:
            temporary.write_bytes(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert target.read_bytes() == b"old"
    with atomic_output(target) as temporary:
        temporary.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_mode_of_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_a_replaced_file_keeps_its_mode(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"")
    target.chmod(0o640)
    write_atomically(target, b"new")
    assert target.stat().st_mode & 0o777 == 0o640


def test_a_write_protected_file_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder's permission would be enough for a rename."""
    target = tmp_path / "file"
    target.write_bytes(b"precious")
    monkeypatch.setattr(os, "access", lambda path, _mode: path != target)  # root may write everywhere
    with pytest.raises(OutputError, match="write-protected"):
        check_output(target)


def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with atomic_output(target) as temporary:
        temporary.write_bytes(b"first")
        with pytest.raises(OutputError, match=f"being written by process {os.getpid()}"), atomic_output(target):
            pass
    assert target.read_bytes() == b"first"
    assert leftovers(tmp_path) == []


def test_what_a_dead_run_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    dead = tmp_path / ".file.99999.ggufkit-part"
    other = tmp_path / ".file2.99999.ggufkit-part"
    dead.write_bytes(b"half")
    other.write_bytes(b"half")
    write_atomically(tmp_path / "file", b"whole")
    assert leftovers(tmp_path) == [other.name]


@pytest.mark.fault
def test_killed_at_any_moment_leaves_old_or_new(tmp_path: Path) -> None:
    """SIGKILL at twenty moments spread over a write: what stands under the name is always one whole version."""
    target = tmp_path / "file"
    versions = {letter * 4_000_000 for letter in (b"a", b"b")}
    target.write_bytes(b"a" * 4_000_000)
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        from ggufkit.files import atomic_output
        print("ready", flush=True)
        while True:
            for letter in (b"b", b"a"):
                with atomic_output(Path(sys.argv[1])) as temporary:
                    temporary.write_bytes(letter * 4_000_000)
    """)
    for attempt in range(20):
        child = subprocess.Popen([sys.executable, "-c", program, target], stdout=subprocess.PIPE)
        assert child.stdout
        assert child.stdout.readline() == b"ready\n"
        time.sleep(0.001 * attempt)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        assert target.read_bytes() in versions
    write_atomically(target, b"done")
    assert leftovers(tmp_path) == []


@pytest.mark.fault
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


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    with pytest.raises(OutputError, match="not enough space"), atomic_output(target, size=free * 2):
        pass
    assert target.read_bytes() == b"old"
    assert leftovers(tmp_path) == []


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


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_written_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def no_locks(_descriptor: int, _operation: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("ggufkit.files.fcntl.flock", no_locks)
    target = tmp_path / "model.gguf"
    ours, dead = (tmp_path / f".model.gguf.{number}.ggufkit-part" for number in (os.getppid(), 2**22 + 1))
    for path in (ours, dead):
        path.write_bytes(b"of another run")
    write_atomically(target, b"new")
    assert target.read_bytes() == b"new"
    assert leftovers(tmp_path) == [ours.name]  # whose process lives, and may be writing it


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
