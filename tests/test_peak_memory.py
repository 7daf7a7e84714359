"""A process's peak of memory."""

import subprocess
import sys

from ggufkit.peak_memory import peak_memory

_TELL = "from ggufkit.peak_memory import peak_memory; print(peak_memory())"


def test_what_was_held_counts_after_it_was_let_go() -> None:
    block = b"x" * (256 << 20)
    assert len(block) > 0
    del block
    assert peak_memory() > 256 << 20


def test_a_child_is_not_as_large_as_its_parent() -> None:
    block = b"x" * (256 << 20)
    told = subprocess.run([sys.executable, "-c", _TELL], capture_output=True, text=True, check=True)
    assert 1 << 20 < int(told.stdout) < 128 << 20 < len(block)
