"""One command, one fault, and what is wrong afterwards: broken or lost files, leftovers, exit code, processes left."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import fault_jobs
import syscall_faults
from command_server import CommandServer, Outcome
from fault_jobs import Job, State
from small_disk import SmallDisk
from syscall_faults import Call, Decide

# Where a call fails that would clear something away, it stays until the next run.
_CLEARS = {"unlink", "unlinkat", "rmdir"}
_SECONDS_TO_END = 2.0
EXIT_OF_SIGNAL = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
_GONE_ON_WITH = (".ggufkit-partial", ".ggufkit-journal")
_NOTE = ".ggufkit-unused-"
_INPUT = 3
UNREADABLE = (5, 6)  # by who noticed: we, or llama.cpp
DISK_ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT)


@dataclass(frozen=True)
class Reference:
    """What a job finds and leaves when nothing goes wrong."""

    old: State
    new: State
    clean: set[str]
    calls: tuple[Call, ...]
    seconds: float


class FaultBench:
    """Does jobs in a scratch folder, with faults; every method returns what is wrong, which should be nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder / "out"
        self.home = folder / "home"
        self.inputs = folder / "inputs"
        self._server = CommandServer()
        self._references: dict[str, Reference] = {}
        self._reads: dict[str, tuple[Call, ...]] = {}

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True)
        fault_jobs.make_inputs(self.inputs, self._do)
        return self

    def _do(self, arguments: Sequence[str], folder: Path) -> None:
        outcome = self._server.run(arguments, folder=folder, environment=self._environment())
        assert outcome.status == 0, outcome.err

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()

    def _environment(self, more: Mapping[str, str | None] | None = None) -> dict[str, str | None]:
        home = str(self.home)
        return {"HOME": home, "XDG_DATA_HOME": f"{home}/data", "XDG_CACHE_HOME": f"{home}/cache", **(more or {})}

    def run(self, job: Job, **options: object) -> Outcome:
        """Do a job as it is."""
        environment = self._environment(options.pop("environment", None))  # type: ignore[arg-type]
        return self._server.run(job.argv(self.inputs), folder=self.out, environment=environment, **options)  # type: ignore[arg-type]

    def command(self, arguments: Sequence[str | Path], **options: object) -> Outcome:
        """Run another command in the folder for output."""
        return self._server.run(arguments, folder=self.out, environment=self._environment(), **options)  # type: ignore[arg-type]

    def reference(self, job: Job) -> Reference:
        """Do a job without faults, once."""
        if job.name not in self._references:
            if "run.json" in {*job.old, *(word.rpartition("/")[2] for word in job.arguments)}:
                fault_jobs.make_result(self.inputs, self._do)
            job.prepare(self.inputs, self.out)
            old = job.state(self.out)
            outcome = self.run(job, decide=lambda _: lambda _: None)
            assert outcome.status == job.code, outcome
            assert not outcome.survivors, outcome
            new, clean = job.state(self.out), fault_jobs.names(self.out)
            self._references[job.name] = Reference(old, new, clean, outcome.calls, outcome.seconds)
        return self._references[job.name]

    # ---- faults

    def killed_at(self, job: Job, number: int) -> list[str]:
        """SIGKILL just before the n-th call; what the command started must die with it."""
        return self._faulty(job, lambda process: syscall_faults.kill_at(number, process), [-signal.SIGKILL])

    def killed_after(self, job: Job, seconds: float) -> list[str]:
        """SIGKILL at some moment."""
        return self._faulty(job, None, [-signal.SIGKILL, job.code], after=(seconds, signal.SIGKILL))

    def signalled_at(self, job: Job, number: int, signal_number: int) -> list[str]:
        """Another signal just before the n-th call: an orderly end, within two seconds."""
        sent: list[float] = []

        def decide(process: Callable[[], int]) -> Decide:
            def one(call: Call) -> None:
                if call.number == number:
                    sent.append(time.monotonic())
                    os.kill(process(), signal_number)

            return one

        wrong = self._faulty(job, decide, self._codes(job, signal_number), tidy=True)
        self.last_delay = self.ended - sent[0] if sent else 0.0
        return wrong

    def signalled_after(self, job: Job, seconds: float, signal_number: int) -> list[str]:
        """Another signal at some moment."""
        codes = self._codes(job, signal_number)
        wrong = self._faulty(job, None, codes, after=(seconds, signal_number), tidy=True)
        self.last_delay = max(0.0, self.last_outcome.seconds - seconds)
        return wrong

    def _codes(self, job: Job, signal_number: int) -> list[int]:
        """Say how a run may end; before and after its work a signal does what it does to every process."""
        return [EXIT_OF_SIGNAL[signal.Signals(signal_number)], -signal_number, job.code]

    def failing_at(self, job: Job, number: int, error: int, *, lasting: bool = False) -> list[str]:
        """Let the n-th call fail with an error of disks: exit 5, the old file kept and nothing left."""
        call = self.reference(job).calls[number - 1]
        cannot_clear = call.name in _CLEARS or (job.parts and call.name.startswith("rename"))
        decide = syscall_faults.fail_at(number, error, lasting=lasting)
        wrong = self._faulty(job, lambda _: decide, [5, job.code], tidy=not cannot_clear)
        if self.last_outcome.status == job.code and self.after_fault != self.reference(job).new:
            wrong.append("ended well without its output")
        return wrong

    def reads(self, job: Job) -> tuple[Call, ...]:
        """List the calls by which a job reads its inputs; what is mapped into memory is read without."""
        if job.name not in self._reads:
            self.reference(job)
            job.prepare(self.inputs, self.out)
            outcome = self.run(job, decide=lambda _: lambda _: None, reads=True, watched=[self.inputs])
            assert outcome.status == job.code, outcome
            self._reads[job.name] = outcome.calls
        return self._reads[job.name]

    def unreadable_at(self, job: Job, number: int) -> list[str]:
        """Let the n-th call that reads an input fail, as on a disk that dies: one line, the old file kept."""
        decide = syscall_faults.fail_at(number, errno.EIO)
        wrong = self._faulty(job, lambda _: decide, [*UNREADABLE, job.code], tidy=True, reads=True)
        if self.last_outcome.status == _INPUT and any(
            words in self.last_outcome.err for words in ("llama.cpp cannot load", "llama.cpp does not accept")
        ):
            wrong = [text for text in wrong if not text.startswith("exit ")]  # it does not say why
        if self.last_outcome.status == job.code and self.after_fault != self.reference(job).new:
            wrong.append("ended well without its output")
        return wrong

    def undisturbed(self, job: Job, decide: Decide) -> list[str]:
        """Do a job with what must not matter: short writes, a file system without locks."""
        wrong = self._faulty(job, lambda _: decide, [job.code], tidy=True)
        if not job.store:
            return wrong if self.after_fault == self.reference(job).new else [*wrong, "not the same files"]
        # Without locks, blobs that no model needs any more stay: somebody may be about to name them.
        wrong = [text for text in wrong if "left" not in text and "same files" not in text]
        return (
            wrong if self.reference(job).new.items() <= self.after_fault.items() else [*wrong, "something is missing"]
        )

    def without_room(self, job: Job, room: int, disk: SmallDisk) -> list[str]:
        """Do a job where so many bytes are free once what was there before lies there."""
        self.reference(job)
        wrong = self._faulty(job, None, [5, job.code], tidy=True, before=lambda: disk.fill(but=room), between=disk.free)
        if self.last_outcome.status == job.code and self.after_fault != self.reference(job).new:
            wrong.append("ended well without its output")
        return wrong

    def filled_at(self, job: Job, number: int, disk: SmallDisk) -> list[str]:
        """Fill the disk that `out` lies on just before the n-th call: nothing more can be written, really."""

        def decide(call: Call) -> None:
            if call.number == number:
                disk.fill()

        self.reference(job)
        wrong = self._faulty(job, lambda _: decide, [5, job.code], tidy=True, between=disk.free)
        if self.last_outcome.status == job.code and self.after_fault != self.reference(job).new:
            wrong.append("ended well without its output")
        return wrong

    def _faulty(
        self,
        job: Job,
        decide: Callable[[Callable[[], int]], Decide] | None,
        codes: Sequence[int],
        *,
        after: tuple[float, int] | None = None,
        tidy: bool = False,
        reads: bool = False,
        before: Callable[[], None] = lambda: None,
        between: Callable[[], None] = lambda: None,
    ) -> list[str]:
        """Do a job with a fault, look, do it again without, and look again."""
        reference = self.reference(job)
        job.prepare(self.inputs, self.out)
        before()
        outcome = self.run(job, decide=decide, after=after, reads=reads, watched=[self.inputs] if reads else ())
        self.ended = time.monotonic()
        self.last_outcome = outcome
        self.after_fault = job.state(self.out)
        wrong = outcome.problems(codes=codes)
        wrong += job.problems(self.out, reference.old, reference.new)
        if tidy:
            left = job.leftovers(self.out, {*reference.clean, *reference.old})
            if job.name == "batch":  # the next run goes on behind the prompts that were answered
                left = [name for name in left if not name.endswith(_GONE_ON_WITH)]
            # A note of blobs that no model needs any more: by it the next run removes them.
            left = [name for name in left if _NOTE not in name]
            wrong += [f"left at once: {name}" for name in left]
        between()
        return wrong + self.next_run(job)

    def next_run(self, job: Job) -> list[str]:
        """Do a job over what a fault left: it must end well, with everything new and nothing else."""
        reference = self.reference(job)
        refuses = job.once and job.state(self.out) == reference.new
        again = self.run(job)
        wrong = [f"next run: {text}" for text in again.problems(codes=[5 if refuses else job.code])]
        if job.state(self.out) != reference.new:
            wrong.append("next run: not the same files")
        return wrong + [f"left after the next run: {name}" for name in job.leftovers(self.out, reference.clean)]

    def clear(self) -> None:
        """Empty the folder for output."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()

    # ---- two at once

    def two_at_once(self, job: Job) -> list[str]:
        """Start two runs of one job together: one ends well; the other too, later, or it names the one that writes."""
        reference = self.reference(job)
        job.prepare(self.inputs, self.out)
        command = [sys.executable, "-c", "from ggufkit.cli import main; main()", *job.argv(self.inputs)]
        environment = {key: value for key, value in {**os.environ, **self._environment()}.items() if value is not None}
        runs = [
            subprocess.Popen(command, cwd=self.out, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            for _ in range(2)
        ]
        said = [run.communicate()[1].decode("utf-8", "replace") for run in runs]
        codes = [run.returncode for run in runs]
        self.refused = sum(code == 5 for code in codes)
        wrong = [] if 0 in codes else [f"nobody won: {codes}, {said}"]
        for code, text, other in zip(codes, said, reversed(runs), strict=True):
            if code not in {0, 5} or "Traceback" in text:
                wrong.append(f"exit {code}: {text[-300:]!r}")
            elif code == 5 and f"being written by process {other.pid}" not in text:
                wrong.append(f"the winner, process {other.pid}, is not named: {text[-300:]!r}")
        if job.state(self.out) != reference.new:
            wrong.append("not what one run alone makes")
        return wrong + [f"left: {name}" for name in job.leftovers(self.out, reference.clean)]

    def while_at_work(self, job: Job, number: int) -> list[str]:
        """Start the same job while the first run stands still before its n-th call: it is refused, and does no harm."""
        second: list[Outcome] = []
        with CommandServer() as other:

            def decide(process: Callable[[], int]) -> Decide:
                def one(call: Call) -> None:
                    if call.number == number:
                        argv, environment = job.argv(self.inputs), self._environment()
                        second.append(other.run(argv, folder=self.out, environment=environment))
                        self.holder = process()

                return one

            reference = self.reference(job)
            job.prepare(self.inputs, self.out)
            first = self.run(job, decide=decide)
        wrong = first.problems(codes=[0]) + second[0].problems(codes=[5])
        if f"being written by process {self.holder}" not in second[0].err:
            wrong.append(f"process {self.holder} is not named: {second[0].err}")
        if job.state(self.out) != reference.new:
            wrong.append("not what one run alone makes")
        return wrong + [f"left: {name}" for name in job.leftovers(self.out, reference.clean)]
