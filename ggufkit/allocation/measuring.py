"""Measuring what changed weights do to a model: by processes side by side, each with a scratch copy of its own.

Small models are measured by one process for each core, because the threads of one would mostly wait for each other;
large ones by a single process with all cores, because each process needs a copy and memory of its own.
"""

import contextlib
import fcntl
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from ggufkit.allocation.choices import Types
from ggufkit.allocation.ledger import Ledger, Measured, key_of, spelled
from ggufkit.allocation.measuring_child import DONE, SEEN, MeasuringRequest
from ggufkit.errors import LlamaCppError, VerificationError
from ggufkit.evaluation.child_process import raise_refusal
from ggufkit.evaluation.likelihood import passes
from ggufkit.evaluation.likelihood.passes import Running
from ggufkit.evaluation.likelihood.texts import Chunks
from ggufkit.files import PlannedFile, check_space
from ggufkit.llamacpp import cpu
from ggufkit.llamacpp.child import Child
from ggufkit.progress import Progress, silent

SMALL = 1 << 30  # bytes of weights: up to here, each core measures by itself
_CHILD = "ggufkit.allocation.measuring_child"
_SECONDS_BETWEEN_LOOKS = 0.05
_COPIED_AT_ONCE = 1 << 22
_FICLONE = 0x40049409  # linux/fs.h: let a copy share the blocks of the original


@dataclass(frozen=True, slots=True)
class Setting:
    """With what is measured: the model's files, the chunks, and how it is run. `identity` names all of it."""

    sources: tuple[Path, ...]
    chunks: Chunks
    importance: Path | None
    include_weights: tuple[str, ...]
    exclude_weights: tuple[str, ...]
    running: Running
    identity: str

    @property
    def bytes(self) -> int:
        """The bytes of the model."""
        return sum(path.stat().st_size for path in self.sources)

    @property
    def processes(self) -> int:
        """How many measure side by side."""
        cores = self.running.threads or cpu.usable_cores()
        return cores if self.bytes * cores <= SMALL and self.running.gpu_layers in {"auto", 0} else 1

    @property
    def running_of_one(self) -> Running:
        """How each of these processes runs the model."""
        return self.running if self.processes == 1 else replace(self.running, threads=1)


class Elsewhere(Protocol):
    """Other machines that answer requests, and append what they find to the ledger."""

    def answer(self, request: MeasuringRequest, on_done: Callable[[int], None], progress: Progress) -> None:
        """Answer a request; `on_done` is told how many of its questions are."""


class Measurer:
    """Asks the ledger first, and measures what it does not know. Use it as a context manager."""

    def __init__(self, setting: Setting, ledger: Ledger, folder: Path, cluster: Elsewhere | None = None) -> None:
        """Measure in processes of this machine, or by a `cluster`, which has scratch copies of its own."""
        self.setting, self.ledger, self.folder = setting, ledger, folder
        self._cluster = cluster
        self._scratches: list[tuple[Path, ...]] = []
        self._prepared = False
        self._sees_changes: bool | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for parts in self._scratches:
            for path in parts:
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            passes.base_file(self.folder, self.setting.chunks).path.unlink(missing_ok=True)

    def known(self, types: Types) -> Measured | None:
        """Return what the ledger knows."""
        return self.ledger.get(key_of(self.setting.identity, types))

    def measure(
        self, questions: Sequence[Types], progress: Progress = silent, stage: str = "Measuring"
    ) -> list[Measured]:
        """Measure what is not known yet; return the answers in the order of the questions.

        Raises:
            OutputError: there is no room for the scratch copies.
            LlamaCppError: llama.cpp failed, or died.
        """
        names = [key_of(self.setting.identity, types) for types in questions]
        todo = {name: types for name, types in zip(names, questions, strict=True) if self.ledger.get(name) is None}
        total = len(questions)
        progress(stage, total - len(todo), total, "steps")
        if todo:
            self._copy(progress)
            if self._cluster is None:
                self._ask(list(todo.items()), total, progress, stage)
            else:
                known = total - len(todo)
                request = self._request(list(todo.items()), ())
                self._cluster.answer(request, lambda done: progress(stage, known + done, total, "steps"), progress)
            self.ledger.reload()
        progress(stage, total, total, "steps")
        found = [self.ledger.get(name) for name in names]
        if any(one is None for one in found):
            raise VerificationError(f"{self.ledger.path} lost a measurement: is somebody else writing it?")
        return [one for one in found if one is not None]

    def prepare(self, progress: Progress = silent) -> passes.Reading:
        """Let the untouched model say what it says of the text. Raises as `measure`."""
        setting = self.setting
        self.folder.mkdir(parents=True, exist_ok=True)
        return passes.read_base(setting.sources[0], setting.chunks, self.folder, setting.running_of_one, progress)

    def _copy(self, progress: Progress) -> None:
        if self._prepared:
            return
        setting = self.setting
        self.prepare(progress)
        np.asarray(setting.chunks.tokens, "<i4").tofile(self.folder / "chunks.i32")
        for number in range(0 if self._cluster else setting.processes):
            parts = tuple(self.folder / f"scratch-{number}" / path.name for path in setting.sources)
            for source, scratch in zip(setting.sources, parts, strict=True):
                scratch.parent.mkdir(exist_ok=True)
                copy_file(source, scratch)
            self._scratches.append(parts)
        self._prepared = True

    def _ask(self, todo: Sequence[tuple[str, Types]], total: int, progress: Progress, stage: str) -> None:
        count = min(len(self._scratches), len(todo))
        parts = [todo[number::count] for number in range(count)]
        requests = [self._request(parts[number], self._scratches[number]) for number in range(count)]
        lock, done = threading.Lock(), [total - len(todo)]

        def on_line(line: str) -> None:
            if line == SEEN:
                self._sees_changes = True
            elif line.startswith(DONE):
                with lock:
                    done[0] += 1
                progress(stage, done[0], total, "steps")

        children_side_by_side(_CHILD, [self._written(number, each) for number, each in enumerate(requests)], on_line)

    def _request(self, todo: Sequence[tuple[str, Types]], scratches: Sequence[Path]) -> MeasuringRequest:
        setting = self.setting
        return MeasuringRequest(
            sources=tuple(str(path.absolute()) for path in setting.sources),
            scratches=tuple(str(path.absolute()) for path in scratches),
            tokens=str((self.folder / "chunks.i32").absolute()),
            chunk_tokens=setting.chunks.length,
            chunks=len(setting.chunks.tokens),
            base=str(passes.base_file(self.folder, setting.chunks).path.absolute()),
            results=str(self.ledger.path.absolute()),
            importance=str(setting.importance.absolute()) if setting.importance else "",
            include_weights=setting.include_weights,
            exclude_weights=setting.exclude_weights,
            running=setting.running_of_one,
            todo=tuple((name, spelled(types)) for name, types in todo),
            sees_changes=self._sees_changes,
        )

    def _written(self, number: int, request: MeasuringRequest) -> Path:
        path = self.folder / f"measuring-{number}.json"
        request.write(path)
        return path


def children_side_by_side(module: str, requests: Sequence[Path], on_line: Callable[[str], None]) -> None:
    """Let `module.main` answer each request in a process of its own, all at the same time; none outlives us.

    Raises:
        GgufkitError: what the first of them refused, of the same kind.
        LlamaCppError: one died.
    """
    for request in requests:
        request.with_suffix(".error.json").unlink(missing_ok=True)
    argv = [sys.executable, "-P", "-c", f"from {module} import main; main()"]
    children: list[tuple[Child, Path]] = []
    try:
        for request in requests:
            children.append((Child([*argv, request], on_line=on_line), request))  # noqa: PERF401 - each is ended below
        waiting = list(children)
        while waiting:
            for child, request in list(waiting):
                if child.ended.wait(_SECONDS_BETWEEN_LOOKS):
                    waiting.remove((child, request))
                    if child.status:
                        _raise(child, request)
    finally:
        for child, _ in children:
            if child.status is None:
                child.end()


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, sharing its blocks where the file system can. Raises OutputError where there is no room."""
    target.unlink(missing_ok=True)
    with source.open("rb") as here, target.open("wb") as there:
        try:
            fcntl.ioctl(there.fileno(), _FICLONE, here.fileno())
        except OSError:  # another file system, or one that cannot
            check_space([PlannedFile(target, source.stat().st_size)])
            shutil.copyfileobj(here, there, _COPIED_AT_ONCE)


def _raise(child: Child, request: Path) -> None:
    answer = request.with_suffix(".error.json")
    if answer.exists():
        raise_refusal(answer)
    raise LlamaCppError(f"measuring failed: {child.describe_end()}")
