"""Measuring on a Ray cluster: the questions go to the nodes one by one, what a lost node had is asked again elsewhere.

Ray starts the workers, moves the files and notices when a node dies; what is measured is what `measuring_child` does
on one machine, and of candidates what `Verifier` does. Every node needs the same ggufkit and the same llama.cpp.
"""

import contextlib
import importlib.util
import json
import os
import secrets
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeAlias

from ggufkit import errors
from ggufkit.allocation.cluster_worker import Worker, describe, files_of
from ggufkit.allocation.making import Making
from ggufkit.allocation.measuring_child import MeasuringRequest
from ggufkit.errors import GgufkitError, LlamaCppError, MissingDependencyError, UsageError
from ggufkit.progress import Progress, silent

_PIECE = 1 << 26  # bytes of a file that are on their way at once
_PARTS_OF_SHARE = 4  # a worker's share of the questions is given in so many portions, so that a slow one gets fewer
_SECONDS = 120.0  # that workers have to start
_SECONDS_TO_ANSWER = 10.0

Todo = tuple[tuple[str, Any], ...]
Portion: TypeAlias = tuple[Any, ...]


def check_installed() -> None:
    """Say early what a cluster needs. Raises MissingDependencyError."""
    if importlib.util.find_spec("ray") is None:
        raise MissingDependencyError("Ray is not installed", hint="pip install 'ggufkit[cluster]'")


class Cluster:
    """A Ray cluster that measures. Use it as a context manager."""

    def __init__(self, address: str) -> None:
        """Connect to `ray://HOST:PORT`, or to `ray://auto`, the cluster that this machine is part of.

        Raises:
            MissingDependencyError: Ray is not installed.
            UsageError: there is no cluster at this address.
        """
        check_installed()
        import ray

        self._ray: Any = ray
        self._run = secrets.token_hex(4)
        self._workers: list[Any] = []
        self._names: dict[Any, str] = {}
        self._shared: dict[str, tuple[str, int]] = {}
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            _knock(address)
            ray.init(
                address="auto" if address == "ray://auto" else address,
                log_to_driver=False,
                logging_level="ERROR",
                configure_logging=False,
            )
        except (OSError, RuntimeError, ValueError) as error:
            reason = (str(error) or type(error).__name__).strip().splitlines()[0]
            raise UsageError(f"no Ray cluster answers at {address}: {reason}", hint="ray start --head") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):  # nodes that are gone keep nobody
            self._ray.wait(
                [worker.leave.remote() for worker in self._workers], num_returns=len(self._workers), timeout=10
            )
        self._ray.shutdown()

    def answer(
        self, request: MeasuringRequest, on_done: Callable[[int], None] = lambda _: None, progress: Progress = silent
    ) -> None:
        """Measure what a request lists, on all nodes, and append what they find to its ledger.

        Raises:
            GgufkitError: what a node refused, of the same kind.
            LlamaCppError: no node is left.
        """
        self._gather(files_of(request), one_thread=request.running.threads == 1, progress=progress)
        done = 0
        with Path(request.results).open("a") as ledger:

            def found(todo: Todo, lines: Sequence[str]) -> None:
                nonlocal done
                ledger.writelines(f"{line}\n" for line in lines)
                ledger.flush()
                os.fsync(ledger.fileno())
                done += len(todo)
                on_done(done)

            def asked(worker: Any, todo: Todo) -> Any:
                return worker.measure.remote(replace(request, todo=todo))

            self._spread(_portions(request.todo, len(self._workers)), asked, found)

    def compare(
        self, makings: Sequence[Making], on_found: Callable[[Making, bytes], None], progress: Progress = silent
    ) -> None:
        """Make the files of candidates and let them read, on all nodes; `on_found` gets the scores of each at once.

        Raises:
            As `answer`.
        """
        files = dict.fromkeys(path for making in makings for path in making.files)
        self._gather(list(files), one_thread=makings[0].request.running.threads == 1, progress=progress)
        self._spread(
            ((making,) for making in makings),
            lambda worker, making: worker.compare.remote(making[0]),
            lambda making, scores: on_found(making[0], scores),
        )

    def _spread(
        self, work: Iterable[Portion], asked: Callable[[Any, Portion], Any], found: Callable[[Portion, Any], None]
    ) -> None:
        """Give portions of work to whichever worker is idle; what a lost one had is given out again, piece by piece."""
        portions = deque(work)
        busy: dict[Any, tuple[Any, Portion]] = {}
        idle = list(self._workers)
        while portions or busy:
            while portions and idle:
                worker, portion = idle.pop(), portions.popleft()
                busy[asked(worker, portion)] = worker, portion
            if not busy:
                raise LlamaCppError(
                    "no node of the cluster is left", hint="the same command goes on where this one was"
                )
            [ready], _ = self._ray.wait(list(busy), num_returns=1)
            worker, portion = busy.pop(ready)
            try:
                answer, refused = self._ray.get(ready)
            except self._ray.exceptions.RayError:  # the node or the worker is gone
                self._workers.remove(worker)
                portions.extendleft((each,) for each in reversed(portion))
                continue
            if refused:
                told = json.loads(refused)
                kind = getattr(errors, told["kind"], GgufkitError)
                raise kind(f"{self._names[worker]}: {told['message']}", hint=told["hint"])
            idle.append(worker)
            found(portion, answer)

    @property
    def nodes(self) -> Sequence[str]:
        """The names of the nodes that measure, one for each worker."""
        return [self._names[worker] for worker in self._workers]

    # ---- workers and their files

    def _gather(self, files: Sequence[str], *, one_thread: bool, progress: Progress) -> None:
        """Start the workers, unless they are there already, and give them the files."""
        if not self._workers:
            self._start(one_thread=one_thread)
        self._share(files, progress)

    def _start(self, *, one_thread: bool) -> None:
        """Start workers on every node: one for each core if the model is measured by one thread, else one."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        remote = self._ray.remote(Worker)
        starting: dict[Any, Any] = {}
        for node in self._ray.nodes():
            cores = int(node["Resources"].get("CPU", 0))
            if not node["Alive"] or not cores:
                continue
            count, each = (cores, 1) if one_thread else (1, cores)
            for _ in range(count):
                place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                placed = remote.options(num_cpus=each, scheduling_strategy=place, max_restarts=0)
                worker = placed.remote(self._run, len(starting))
                starting[worker.introduce.remote()] = worker
        ready, _ = self._ray.wait(list(starting), num_returns=len(starting), timeout=_SECONDS) if starting else ([], [])
        ours = Worker(self._run, -1).introduce()
        different = None
        for asked in ready:
            try:
                name, *software = self._ray.get(asked)
            except self._ray.exceptions.RayError:
                continue
            if software == list(ours[1:]):
                self._workers.append(starting[asked])
                self._names[starting[asked]] = name
            else:
                different = f"{name} has ggufkit {software[0]} and {software[1]}, not {ours[1]} and {ours[2]}"
        if different:
            raise UsageError(different, hint="install the same ggufkit on every node, and run `ggufkit setup` there")
        if not self._workers:
            raise UsageError("the Ray cluster has no node that can start a worker", hint="ray status")

    def _share(self, files: Sequence[str], progress: Progress) -> None:
        """Give every node the files that it does not have."""
        new = [path for path in files if path not in self._shared]
        if not new:
            return
        self._shared |= (described := dict(describe(new)))
        # One worker after the other looks: those of a node find what the first of them got.
        for worker in list(self._workers):
            try:
                lacking = self._ray.get(worker.missing.remote(described))
                for path in lacking:
                    for offset, content in _pieces(Path(path)):
                        progress(f"Sending files to {self._names[worker]}", offset, described[path][1])
                        self._ray.get(worker.receive.remote(path, offset, content))
                if lacking and (left := self._ray.get(worker.missing.remote(described))):
                    raise LlamaCppError(f"{self._names[worker]} did not receive {left[0]} whole")
            except self._ray.exceptions.RayError:
                self._workers.remove(worker)


def _knock(address: str) -> None:
    """Connect once: Ray itself tries for minutes. Raises OSError, and ValueError for what is no address."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_ANSWER).close()


def _portions(todo: Todo, workers: int) -> Iterator[Todo]:
    size = max(1, len(todo) // max(1, workers * _PARTS_OF_SHARE))
    for start in range(0, len(todo), size):
        yield todo[start : start + size]


def _pieces(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        offset = 0
        while (content := file.read(_PIECE)) or not offset:
            yield offset, content
            offset += len(content) or 1
