"""Rows about commands that write: killed, interrupted, failing disks, two at once, other surroundings."""

import errno
import shutil
import signal
from collections.abc import Callable

import fault_jobs
import small_disk
import surroundings
import syscall_faults
from fault_runs import DISK_ERRORS, EXIT_OF_SIGNAL, FaultBench

from soak import Row, Trial

_THREE = fault_jobs.FAST[:3]  # convert, quantize, export ollama
_ALL = [*fault_jobs.FAST, *fault_jobs.ENGINES]
_SMALL_DISK = 24 << 20
_SMALL_MODEL = 300_000  # bytes; about what a job writes


def _note(trial: Trial, case: int, job: fault_jobs.Job, where: object, problems: list[str]) -> None:
    for problem in problems:
        trial.broken(case, f"{job.name}, {where}: {problem}")


def _needs_watch(trial: Trial) -> None:
    if reason := syscall_faults.why_not():
        trial.skip(reason)


def random_kills(trial: Trial) -> None:
    with FaultBench(trial.folder) as bench:
        for case in trial.cases():
            job, chance = _THREE[case % len(_THREE)], trial.random(case)
            seconds = chance.uniform(0, 1.1) * bench.reference(job).seconds
            _note(trial, case, job, f"killed after {seconds:.3f} s", bench.killed_after(job, seconds))
            trial.add("killed while at work", bench.last_outcome.status == -signal.SIGKILL)


def _at_every_call(one: Callable[[FaultBench, fault_jobs.Job, int], list[str]]) -> Callable[[Trial], None]:
    """Make a row whose cases are the system calls of all jobs: each job is done as often as it has calls."""

    def measure(trial: Trial) -> None:
        _needs_watch(trial)
        with FaultBench(trial.folder) as bench:
            # The first call of each, then the second of each: so some of every job are among the first.
            every = sorted(
                (call.number, place) for place, job in enumerate(_ALL) for call in bench.reference(job).calls
            )
            for case in trial.cases(len(every)):
                number, place = every[case]
                job = _ALL[place]
                call = bench.reference(job).calls[number - 1]
                _note(trial, case, job, f"call {number}, {call}", one(bench, job, number))

    return measure


def failing_reads(trial: Trial) -> None:
    _needs_watch(trial)
    with FaultBench(trial.folder) as bench:
        every = sorted((call.number, place) for place, job in enumerate(_ALL) for call in bench.reads(job))
        for case in trial.cases(len(every)):
            number, place = every[case]
            job = _ALL[place]
            _note(trial, case, job, f"EIO at read {number}", bench.unreadable_at(job, number))
            trial.add("noticed", bench.last_outcome.status != job.code)


def harmless(trial: Trial) -> None:
    _needs_watch(trial)
    ways = {
        "every write writes half": syscall_faults.shorten,
        "no locks (ENOLCK)": syscall_faults.without_locks(errno.ENOLCK),
        "no locks (EOPNOTSUPP)": syscall_faults.without_locks(errno.EOPNOTSUPP),
    }
    with FaultBench(trial.folder) as bench:
        for case in trial.cases():
            job, way = _ALL[case // len(ways)], list(ways)[case % len(ways)]
            _note(trial, case, job, way, bench.undisturbed(job, ways[way]))


def small_disks(trial: Trial) -> None:
    if reason := small_disk.why_not():
        trial.skip(reason)
    mounted = trial.folder / "small"
    with FaultBench(trial.folder) as bench, small_disk.SmallDisk(mounted, _SMALL_DISK) as disk:
        bench.out = mounted / "out"
        watched = not syscall_faults.why_not()
        for case in trial.cases():
            job, chance = fault_jobs.FAST[case % len(fault_jobs.FAST)], trial.random(case)
            calls = len(bench.reference(job).calls)
            if watched and case // len(fault_jobs.FAST) % 2:
                number = chance.randint(1, calls)
                _note(trial, case, job, f"filled at call {number}", bench.filled_at(job, number, disk))
            else:
                room = chance.randrange(_SMALL_MODEL)
                _note(trial, case, job, f"{room} bytes free", bench.without_room(job, room, disk))
            trial.add("refused", bench.last_outcome.status == 5)
            disk.free()


def _kill(bench: FaultBench, job: fault_jobs.Job, number: int) -> list[str]:
    return bench.killed_at(job, number)


def _fail(bench: FaultBench, job: fault_jobs.Job, number: int) -> list[str]:
    return bench.failing_at(job, number, DISK_ERRORS[number % len(DISK_ERRORS)])


def _fill(bench: FaultBench, job: fault_jobs.Job, number: int) -> list[str]:
    return bench.failing_at(job, number, errno.ENOSPC, lasting=True)


def signals(trial: Trial) -> None:
    with FaultBench(trial.folder) as bench:
        for case in trial.cases():
            job, chance = fault_jobs.FAST[case % len(fault_jobs.FAST)], trial.random(case)
            number = chance.choice(list(EXIT_OF_SIGNAL))
            seconds = chance.uniform(0.05, 1) * bench.reference(job).seconds
            problems = bench.signalled_after(job, seconds, number)
            _note(trial, case, job, f"{number.name} after {seconds:.3f} s", problems)
            trial.took("seconds to the end", bench.last_delay, limit=2)
            trial.add("interrupted at work", bench.last_outcome.status == EXIT_OF_SIGNAL[number])


def pairs(trial: Trial) -> None:
    with FaultBench(trial.folder) as bench:
        for case in trial.cases():
            job = (_THREE[0], _THREE[1], fault_jobs.FAST[6])[case % 3]
            _note(trial, case, job, "two at once", bench.two_at_once(job))
            trial.add("refused", bench.refused)


def same_bytes(trial: Trial) -> None:
    work = surroundings.Work(trial.folder)
    expected = work.digests(surroundings.PLAIN)
    for case in trial.cases():
        chosen = surroundings.ALL[case % len(surroundings.ALL)]
        found = work.digests(chosen)
        for name in expected:
            if found.get(name) != expected[name]:
                trial.broken(case, f"{name}: other bytes under {chosen}")
        trial.add("files compared", len(expected))


def power_cuts(trial: Trial) -> None:
    import power_cut

    if reason := power_cut.why_not():
        trial.skip(reason)
    with FaultBench(trial.folder) as bench, power_cut.Disk(trial.folder / "disk") as disk:
        for case in trial.cases():
            job = _THREE[case % len(_THREE)]
            old = (case // len(_THREE)) % 2 == 0
            out = disk.mounted / "out"
            job.prepare(bench.inputs, out)
            if not old:
                shutil.rmtree(out)
                out.mkdir()
            disk.settle()
            bench.out = out
            outcome = bench.run(job)
            wanted = job.state(out)
            disk.cut()
            bench.out = bench.folder / "out"
            if outcome.status:
                trial.broken(case, outcome.err)
            elif not wanted.items() <= job.state(out).items():  # blobs that were removed may be back
                trial.broken(case, f"{job.name}, {'over an old file' if old else 'new'}: what was done is not there")
            elif job.store:
                _note(trial, case, job, "after the cut", job.problems(out, wanted, wanted))


ROWS = [
    Row(
        "kills",
        "kill -9 at 500 random moments, old file present: convert, quantize, export ollama",
        "0 broken, 0 lost old files, 0 temporary files after the next run",
        random_kills,
        count=500,
        quick=0,  # tests/faults/test_system_calls.py kills at every call
        engine=True,
    ),
    Row(
        "kill-calls",
        f"kill -9 at every system call that changes a file, of {len(_ALL)} commands",
        "0",
        _at_every_call(_kill),
        count=0,
        quick=0,  # tests/faults/test_system_calls.py
        engine=True,
    ),
    Row(
        "disk-errors",
        f"ENOSPC, EIO, EDQUOT at every such call, of {len(_ALL)} commands",
        "0 broken, 0 temporary files left, exit 5",
        _at_every_call(_fail),
        count=0,
        quick=0,
        engine=True,
    ),
    Row(
        "full-disk",
        f"a disk that is full from every such call on, of {len(_ALL)} commands",
        "0 broken, 0 temporary files left, exit 5",
        _at_every_call(_fill),
        count=0,
        quick=0,
        engine=True,
    ),
    Row(
        "failing-reads",
        f"EIO at every call that reads an input, of {len(_ALL)} commands",
        "0 broken, 0 temporary files left, exit 5 or llama.cpp's failure told of (6)",
        failing_reads,
        count=0,
        quick=0,  # tests/faults/test_disks.py
        engine=True,
    ),
    Row(
        "harmless",
        f"short writes, and file systems without locks, of {len(_ALL)} commands",
        "the same files, exit 0",
        harmless,
        count=3 * len(_ALL),
        quick=0,  # tests/faults/test_disks.py
        engine=True,
    ),
    Row(
        "small-disk",
        "a tmpfs that is full before, or gets full at a random moment",
        "0 broken, 0 temporary files left, exit 5",
        small_disks,
        count=300,
        quick=0,  # tests/faults/test_disks.py
        engine=True,
    ),
    Row(
        "signals",
        "SIGINT, SIGTERM, SIGHUP at 100 random moments",
        "exit 130, 143, 129 in < 2 s, 0 leftovers, 0 orphan processes",
        signals,
        count=100,
        quick=0,  # tests/faults/test_outputs.py sends them where it does not depend on the clock
        engine=True,
    ),
    Row(
        "pairs", "two runs at once, same output", "one wins, the other names it", pairs, count=20, quick=3, engine=True
    ),
    Row(
        "power-cuts",
        "power cut after `done`, new name and replaced",
        "0 broken, 0 missing",
        power_cuts,
        count=100,
        quick=0,  # it mounts a disk
        engine=True,
    ),
    Row(
        "same-bytes",
        "the same work in other surroundings",
        "identical sha256",
        same_bytes,
        count=len(surroundings.ALL),
        quick=2,
        engine=True,
    ),
]
