"""The last word: candidates are quantized by llama-quantize and read text that none of the earlier steps has seen."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from ggufkit.allocation.choices import Types
from ggufkit.allocation.ledger import Ledger, Measured, key_of
from ggufkit.allocation.making import Making
from ggufkit.allocation.measuring import Setting, children_side_by_side
from ggufkit.evaluation.likelihood import passes
from ggufkit.evaluation.likelihood.request import DONE, Request, Task
from ggufkit.evaluation.likelihood.scores import COLUMNS
from ggufkit.evaluation.likelihood.statistics import divergence
from ggufkit.llamacpp import cpu
from ggufkit.progress import Progress
from ggufkit.quantization.scale_search import VERSION

MOST_TAIL = 1.02  # times the preset's 99.9th percentile: a better mean must not be paid for by the worst tokens
_SURE = 2.0  # standard errors
_TAIL = 99.9
_KLD = COLUMNS.index("kld")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A choice of types that may be shipped, and the divergences that are foretold of it, in nats.

    `predicted_by_probes` is the sum over tensors, known before any file is made. `predicted` is the best guess in the
    end: measured with the whole mix where that was done, and in proportion to what the other files turned out to be.
    `refined` names what the weights were refined with, `equalized` what was scaled in them; both are empty where they
    are the checkpoint's own. `scales_searched` says that the file has better scales than ggml's encoder finds. Of a
    preset as everybody makes it, where the others are not made so, nothing is foretold: not a number.
    """

    name: str
    types: Types
    bytes: int
    predicted_by_probes: float
    predicted: float
    is_preset: bool = False
    refined: str = ""
    equalized: str = ""
    scales_searched: bool = False


@dataclass(frozen=True, slots=True)
class Verified:
    """A candidate and what it does on unseen text."""

    candidate: Candidate
    measured: Measured


Made = Callable[[Types, Request], Making]
"""Says how a file with these types is made, for a request that names it."""


class Elsewhere(Protocol):
    """Other machines that make files and let them read."""

    def compare(self, makings: Sequence[Making], on_found: Callable[[Making, bytes], None], progress: Progress) -> None:
        """Do it; `on_found` gets the scores of each."""


class Verifier:
    """Measures real files. Use it as a context manager: the base's log-probabilities go away with it."""

    def __init__(
        self, setting: Setting, ledger: Ledger, folder: Path, made: Made, elsewhere: Elsewhere | None = None
    ) -> None:
        """`made` says how the file of a candidate is made; `elsewhere` are other machines to do it."""
        self._setting, self._ledger, self._folder, self._made = setting, ledger, folder, made
        self._elsewhere = elsewhere
        self._read = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def verify(self, candidates: Sequence[Candidate], progress: Progress, made: Made | None = None) -> list[Verified]:
        """Measure candidates, as many at a time as run side by side; `made` says how they are made here instead.

        Raises:
            As `ggufkit.quantization.quantize.quantize`; LlamaCppError when a model cannot be run.
        """
        todo = [each for each in candidates if self._ledger.get(self._key(each)) is None]
        total = len(candidates)
        if todo:
            self._prepare(progress)
        if todo and self._elsewhere and made is None:
            self._measure_elsewhere(todo, self._elsewhere, progress)
            todo = []
        for start in range(0, len(todo), self._setting.processes):
            progress("Verifying candidates", total - len(todo) + start, total, "steps")
            self._measure(todo[start : start + self._setting.processes], made or self._made, progress)
        progress("Verifying candidates", total, total, "steps")
        found = []
        for each in candidates:
            measured = self._ledger.get(self._key(each))
            if measured is not None:
                found.append(Verified(each, measured))
        return found

    def _key(self, candidate: Candidate) -> str:
        refined = f" refined {candidate.refined}" if candidate.refined else ""
        equalized = f" equalized {candidate.equalized}" if candidate.equalized else ""
        searched = f" scales {VERSION}" if candidate.scales_searched else ""
        return key_of(f"file {self._setting.identity}{refined}{equalized}{searched}", candidate.types)

    def _measure(self, candidates: Sequence[Candidate], made: Made, progress: Progress) -> None:
        makings = [
            made(candidate.types, self._request(self._folder / f"candidate-{number}"))
            for number, candidate in enumerate(candidates)
        ]
        for making in makings:
            Path(making.request.scores).unlink(missing_ok=True)
            making.make(progress)
            making.request.write(Path(making.request.report).with_suffix(".request.json"))
        done = [0]
        whole = len(candidates) * len(self._setting.chunks.tokens)

        def on_line(line: str) -> None:
            if line.startswith(DONE):
                done[0] += 1
                progress("Reading unseen text", done[0], whole, "steps")

        requests = [Path(making.request.report).with_suffix(".request.json") for making in makings]
        children_side_by_side("ggufkit.evaluation.likelihood.child", requests, on_line)
        for candidate, making in zip(candidates, makings, strict=True):
            self._note(candidate, Path(making.request.scores).read_bytes())
            Path(making.request.model).unlink(missing_ok=True)
            Path(making.request.scores).unlink(missing_ok=True)

    def _measure_elsewhere(self, candidates: Sequence[Candidate], where: Elsewhere, progress: Progress) -> None:
        makings = [
            self._made(candidate.types, self._request(self._folder / f"candidate-{number}"))
            for number, candidate in enumerate(candidates)
        ]
        done = [0]

        def on_found(making: Making, scores: bytes) -> None:
            self._note(candidates[makings.index(making)], scores)
            done[0] += 1
            progress("Verifying candidates", done[0], len(candidates), "steps")

        where.compare(makings, on_found, progress)

    def _request(self, stem: Path) -> Request:
        setting = self._setting
        return Request(
            task=Task.COMPARE,
            model=str(stem.with_suffix(".gguf").absolute()),
            running=setting.running_of_one,
            tokens=str((self._folder / "chunks.i32").absolute()),
            chunk_tokens=setting.chunks.length,
            chunks=len(setting.chunks.tokens),
            base=str(passes.base_file(self._folder, setting.chunks).path.absolute()),
            scores=str(stem.with_suffix(".scores").absolute()),
            report=str(stem.with_suffix(".json").absolute()),
        )

    def _prepare(self, progress: Progress) -> None:
        """Let the untouched model say what it says of the text, once."""
        if self._read:
            return
        setting = self._setting
        self._folder.mkdir(parents=True, exist_ok=True)
        passes.read_base(setting.sources[0], setting.chunks, self._folder, setting.running_of_one, progress)
        np.asarray(setting.chunks.tokens, "<i4").tofile(self._folder / "chunks.i32")
        self._read = True

    def _note(self, candidate: Candidate, scores: bytes) -> None:
        """Keep what was measured. `scores` are float32 [chunks, scored tokens, columns]."""
        scored = passes.base_file(self._folder, self._setting.chunks).scored
        found = np.frombuffer(scores, "<f4").reshape(len(self._setting.chunks.tokens), scored, len(COLUMNS))
        told = divergence(found)
        klds = found[:, :, _KLD].mean(axis=1, dtype=np.float64)
        self._ledger.add(
            self._key(candidate),
            Measured(
                told.mean_kld.value,
                tuple(float(f"{one:.9g}") for one in klds),
                0.0,
                tail=told.percentiles[_TAIL],
                same_top=told.same_top.value,
            ),
        )


def best_of(verified: Sequence[Verified], least: int = 0) -> Verified:
    """Choose the lowest mean divergence among those of at least `least` bytes that are surely better than the preset.

    Surely means that the mean of the chunks' differences is two standard errors below zero, and that the worst tokens
    are hardly worse. Where none is, the preset is the best, if it is large enough; the lowest mean otherwise.
    """
    preset = min((each for each in verified if each.candidate.is_preset), key=_order, default=None)
    if preset is None:
        return min([each for each in verified if each.candidate.bytes >= least] or verified, key=_order)
    tail = MOST_TAIL * (preset.measured.tail or 0.0)
    allowed = [
        each
        for each in verified
        if not each.candidate.is_preset
        and each.candidate.bytes >= least
        and (each.measured.tail or 0.0) <= tail
        and each.measured.kld < preset.measured.kld
    ]
    sure = [each for each in allowed if _surely_below(each.measured.chunks, preset.measured.chunks)]
    if not sure and preset.candidate.bytes >= least:
        return preset
    return min(sure or allowed or [preset], key=_order)


def _order(one: Verified) -> tuple[float, str]:
    return one.measured.kld, one.candidate.name


def _surely_below(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    difference = np.asarray(ours) - np.asarray(theirs)
    error = difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else 0.0
    return bool(difference.mean() + _SURE * error < 0)


def threads_of(setting: Setting) -> int:
    """The threads that one process of a setting has."""
    return 1 if setting.processes > 1 else setting.running.threads or cpu.usable_cores()
