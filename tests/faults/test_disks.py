"""Disks that cannot be read, that are really full, that write less than asked, that have no locks.

Here some calls of some commands; `scripts/soak --rows failing-reads,harmless,small-disk` tries them all.
"""

import errno
from collections.abc import Iterator

import fault_jobs
import pytest
import small_disk
import syscall_faults
from fault_runs import FaultBench

pytestmark = [pytest.mark.fault, pytest.mark.engine]

JOBS = {job.name: job for job in fault_jobs.FAST}
THREE = ["convert", "quantize", "export ollama"]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[small_disk.SmallDisk]:
    if reason := small_disk.why_not():
        pytest.skip(reason)
    with small_disk.SmallDisk(tmp_path_factory.mktemp("small") / "disk", 24 << 20) as mounted:
        yield mounted


@pytest.fixture
def on_it(bench: FaultBench, disk: small_disk.SmallDisk) -> Iterator[FaultBench]:
    """Let the jobs write to the small disk."""
    before, bench.out = bench.out, disk.mounted / "out"
    yield bench
    disk.free()
    bench.out = before


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("name", [*THREE, "edit"])
def test_an_input_that_cannot_be_read_is_said(bench: FaultBench, name: str) -> None:
    total = len(bench.reads(JOBS[name]))
    found = {number: bench.unreadable_at(JOBS[name], number) for number in {1, total // 2, total}}
    assert {number: wrong for number, wrong in found.items() if wrong} == {}


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("name", [*THREE, "direct"])
def test_writes_that_write_half_do_no_harm(bench: FaultBench, name: str) -> None:
    assert bench.undisturbed(JOBS[name], syscall_faults.shorten) == []


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("name", THREE)
def test_a_file_system_without_locks_is_written_too(bench: FaultBench, name: str) -> None:
    assert bench.undisturbed(JOBS[name], syscall_faults.without_locks(errno.ENOLCK)) == []


@pytest.mark.parametrize("name", THREE)
def test_a_full_disk_is_said_before_the_work(on_it: FaultBench, disk: small_disk.SmallDisk, name: str) -> None:
    assert on_it.without_room(JOBS[name], 2000, disk) == []
    assert on_it.last_outcome.status == 5


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("name", THREE)
def test_a_disk_that_gets_full_meanwhile_is_said(on_it: FaultBench, disk: small_disk.SmallDisk, name: str) -> None:
    total = len(on_it.reference(JOBS[name]).calls)
    found = {}
    for number in (total // 3, total // 2):
        found[number] = on_it.filled_at(JOBS[name], number, disk)
        disk.free()
    assert {number: wrong for number, wrong in found.items() if wrong} == {}
