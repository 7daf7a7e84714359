"""Commands die, or their disk fails, just before a call that changes a file: what stands under a name is always whole.

Here some calls of each command, spread evenly; `scripts/soak --rows kill-calls,disk-errors,full-disk` tries them all.
"""

import errno
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import fault_jobs
import pytest
from fault_runs import DISK_ERRORS, EXIT_OF_SIGNAL, FaultBench

pytestmark = [pytest.mark.fault, pytest.mark.engine, pytest.mark.usefixtures("watched")]

JOBS = {job.name: job for job in (*fault_jobs.FAST, *fault_jobs.ENGINES)}
THREE = ["convert", "quantize", "export ollama"]
CHEAP = [job.name for job in fault_jobs.FAST if job.name != "report"]


def spread(bench: FaultBench, name: str, count: int, shift: int = 0) -> Iterable[int]:
    """Choose so many of a job's calls, and one of the last, where the names change."""
    total = len(bench.reference(JOBS[name]).calls)
    return sorted({1 + (number * total // count + shift) % total for number in range(count)} | {total - 2})


@pytest.mark.parametrize("name", THREE)
def test_killed_before_a_call(bench: FaultBench, name: str) -> None:
    found = {n: bench.killed_at(JOBS[name], n) for n in spread(bench, name, 6)}
    assert {number: wrong for number, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize("name", [name for name in JOBS if name not in THREE])
def test_the_other_commands_killed_before_a_call(bench: FaultBench, name: str) -> None:
    found = {n: bench.killed_at(JOBS[name], n) for n in spread(bench, name, 1, shift=7) if name in CHEAP or n < 9}
    assert {number: wrong for number, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize("name", CHEAP)
def test_a_call_fails(bench: FaultBench, name: str) -> None:
    numbers = spread(bench, name, 1, shift=5)
    found = {n: bench.failing_at(JOBS[name], n, DISK_ERRORS[n % len(DISK_ERRORS)]) for n in numbers}
    assert {number: wrong for number, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize("name", THREE)
def test_the_disk_is_full_from_a_call_on(bench: FaultBench, name: str) -> None:
    found = {n: bench.failing_at(JOBS[name], n, errno.ENOSPC, lasting=True) for n in spread(bench, name, 2, shift=3)}
    assert {number: wrong for number, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize("number", list(EXIT_OF_SIGNAL), ids=lambda number: number.name)
def test_a_signal_before_a_call_ends_in_order(bench: FaultBench, number: int) -> None:
    found = {}
    for name in THREE:
        total = len(bench.reference(JOBS[name]).calls)
        found[name] = bench.signalled_at(JOBS[name], total // 2, number)
    assert {where: wrong for where, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize("name", ["convert", "quantize", "parts", "one pass"])
def test_a_second_run_is_told_who_writes(bench: FaultBench, name: str) -> None:
    total = len(bench.reference(JOBS[name]).calls)
    assert bench.while_at_work(JOBS[name], total // 2) == []


def test_strace_sees_the_same_order(bench: FaultBench, tmp_path: Path) -> None:
    """Another witness: last write, fsync of the file, rename, fsync of the folder, and only then what says so."""
    if not (strace := shutil.which("strace")):
        pytest.skip("no strace")
    log = tmp_path / "log"
    calls = "trace=write,pwrite64,fsync,fdatasync,rename,renameat,renameat2"
    command = [sys.executable, "-c", "from ggufkit.cli import main; main()", *JOBS["convert"].argv(bench.inputs)]
    done = subprocess.run(
        [strace, "-f", "-y", "-e", calls, "-o", log, *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    if "PTRACE" in done.stderr or "ptrace" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    steps = []
    for line in log.read_text().splitlines():
        if "m.gguf" in line and "lock" not in line:
            steps.append(line.split()[1].partition("(")[0])
        elif f"<{tmp_path}>" in line and "fsync" in line:
            steps.append("fsync of the folder")
        elif "write(1<" in line and "m.gguf" in line:
            steps.append("said")
    said = [line for line in log.read_text().splitlines() if "write(1<" in line]
    assert said, "nothing was said"
    assert steps[-1] == "write", steps  # the line on stdout names the file
    last = len(steps) - 1 - steps[::-1].index("pwrite64")
    assert steps[last + 1 : -1] == ["fsync", "rename", "fsync of the folder"], steps
