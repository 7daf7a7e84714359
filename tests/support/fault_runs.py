"""One command, one fault, and what is wrong afterwards: broken or lost files, leftovers, exit code, processes left."""

import errno
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import fault_jobs
import syscall_faults
from command_server import CommandServer, Outcome
from fault_jobs import Job, State
from syscall_faults import Call, Decide

# A call that clears away cannot be repeated by the one who is told that it failed: the next run does it.
_CLEARS = {"unlink", "unlinkat", "rmdir"}
_SECONDS_TO_END = 2.0
EXIT_OF_SIGNAL = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
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

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True)

        def run(arguments: Sequence[str], folder: Path) -> None:
            outcome = self._server.run(arguments, folder=folder, environment=self._environment())
            assert outcome.status == 0, outcome.err

        fault_jobs.make_inputs(self.inputs, run)
        return self

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

        wrong = self._faulty(job, decide, [EXIT_OF_SIGNAL[signal.Signals(signal_number)], job.code], tidy=True)
        self.last_delay = self.ended - sent[0] if sent else 0.0
        return wrong

    def signalled_after(self, job: Job, seconds: float, signal_number: int) -> list[str]:
        """Another signal at some moment."""
        codes = [EXIT_OF_SIGNAL[signal.Signals(signal_number)], job.code]
        wrong = self._faulty(job, None, codes, after=(seconds, signal_number), tidy=True)
        self.last_delay = max(0.0, self.last_outcome.seconds - seconds)
        return wrong

    def failing_at(self, job: Job, number: int, error: int, *, lasting: bool = False) -> list[str]:
        """Let the n-th call fail with an error of disks: exit 5, the old file kept and nothing left."""
        wrong = self._faulty(
            job, lambda _: syscall_faults.fail_at(number, error, lasting=lasting), [5, job.code], tidy=True
        )
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
    ) -> list[str]:
        """Do a job with a fault, look, do it again without, and look again."""
        reference = self.reference(job)
        job.prepare(self.inputs, self.out)
        outcome = self.run(job, decide=decide, after=after)
        self.ended = time.monotonic()
        self.last_outcome = outcome
        self.after_fault = job.state(self.out)
        wrong = outcome.problems(codes=codes)
        wrong += job.problems(self.out, reference.old, reference.new)
        if tidy and not any(call.name in _CLEARS for call in outcome.calls[-1:]):
            wrong += [f"left at once: {name}" for name in job.leftovers(self.out, {*reference.clean, *reference.old})]
        return wrong + self.next_run(job)

    def next_run(self, job: Job) -> list[str]:
        """Do a job over what a fault left: it must end well, with everything new and nothing else."""
        reference = self.reference(job)
        again = self.run(job)
        wrong = [f"next run: {text}" for text in again.problems(codes=[job.code])]
        if job.state(self.out) != reference.new:
            wrong.append("next run: not the same files")
        return wrong + [f"left after the next run: {name}" for name in job.leftovers(self.out, reference.clean)]

    def clear(self) -> None:
        """Empty the folder for output."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
