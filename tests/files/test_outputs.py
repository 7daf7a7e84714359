"""Output is whole or absent, and what stood there before stays until the new file is whole."""

import os
import signal
import subprocess
import sys
import textwrap
import time
import types
from pathlib import Path

import pytest

from ggufkit.errors import OutputError
from ggufkit.files import atomic_output, outputs, resumable_output, write_atomically
from ggufkit.files.leftovers import PARTIAL_KINDS


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


def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


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


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    with pytest.raises(OutputError, match="not enough space"), atomic_output(target, size=free * 2):
        pass
    assert target.read_bytes() == b"old"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("seconds", "found", "worth", "left"),
    [(59, False, False, 0), (61, False, False, 2), (1, True, False, 2), (1, False, True, 2)],
    ids=["soon", "after a minute", "what was begun before", "what is worth it"],
)
def test_what_was_begun_is_kept_only_if_somebody_would_miss_it(
    seconds: float, found: bool, worth: bool, left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in PARTIAL_KINDS if found else ():
        (tmp_path / f".out.{kind}").write_bytes(b"begun")
    clock = iter([0.0, seconds])
    monkeypatch.setattr(outputs, "time", types.SimpleNamespace(monotonic=lambda: next(clock, seconds)))

    def interrupted() -> None:
        with resumable_output(tmp_path / "out", size=0) as partial:
            partial.journal.touch()
            partial.worth_keeping = worth
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    assert len(list(tmp_path.iterdir())) == left
