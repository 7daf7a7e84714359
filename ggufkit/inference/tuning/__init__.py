"""Tuning: which settings run a model fastest on this machine, measured with llama-bench, never slower than the default.

Threads for generating are chosen by generating; threads for prompts and the micro batch by reading a prompt; flash
attention, the way of loading and, only when asked for, the types of keys and values by generating behind a filled
context. What is chosen is then measured anew beside the default, and each part is kept only if it gained.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from ggufkit.errors import LlamaCppError, UsageError
from ggufkit.inference import profile
from ggufkit.inference.model_file import check_model_file
from ggufkit.inference.options import CacheType, FlashAttention, LoadMode
from ggufkit.inference.profile import Profile
from ggufkit.inference.tuning import settings as candidates
from ggufkit.inference.tuning.bench_measure import Workload
from ggufkit.inference.tuning.settings import Settings
from ggufkit.inference.tuning.trials import SMALLEST_GAIN, Comparison, Measure, Trial, compare, halve
from ggufkit.llamacpp import cpu
from ggufkit.progress import Progress, silent

GENERATING, READING = "generating", "reading"
_SHARE_FOR_SEARCH = 0.6  # of the time; the rest is for being sure
_STAGES = 5  # beside those for types of keys and values
_FOR_MEMORY = 1.05  # what is to be gained by something that takes more memory


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneOptions:
    """How to tune.

    Attributes:
        seconds: about how long it may take; a large model takes longer, for every measurement loads it.
        cache_types: types of keys and values to try beside f16. They cost quality, so by default none.
        gpu_layers: layers on GPUs while measuring; -1: all.
    """

    seconds: float = 120.0
    cache_types: tuple[CacheType, ...] = ()
    gpu_layers: int = -1

    def __post_init__(self) -> None:
        """Refuse values that make no sense. Raises UsageError."""
        if not self.seconds > 0:
            raise UsageError("the time for tuning must be positive")


@dataclass(frozen=True, slots=True)
class Stage:
    """One question that was put to the machine: from which settings, and the trials, best first."""

    name: str
    workload: str
    start: Settings
    trials: tuple[Trial, ...]


@dataclass(slots=True, kw_only=True)
class TuneResult:
    """What tuning found; speeds in tokens per second.

    `settings` are those of the profile: what differs from the default and gained. `skipped` names the stages for
    which there was no time. `load` is the machine's load average at the beginning, with how many CPUs it has.
    """

    model: Path
    default: Settings
    chosen: Settings
    stages: list[Stage] = field(default_factory=list)
    generating: Comparison = field(default_factory=Comparison)
    reading: Comparison = field(default_factory=Comparison)
    compared: Settings | None = None
    workloads: dict[str, Workload] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    seconds: float = 0.0
    load: float = 0.0
    cpus: int = 1

    @property
    def settings(self) -> dict[str, Any]:
        """Return the keyword arguments of `EngineOptions` that were worth it."""
        return self.chosen.changed_from(self.default)

    @property
    def was_busy(self) -> bool:
        """Tell whether other programs kept a good part of the machine busy."""
        return self.load > 0.3 * self.cpus

    def as_json(self) -> dict[str, Any]:
        """Return everything as values that JSON has."""
        return {
            "model": str(self.model),
            "machine": profile.machine(),
            "settings": self.settings,
            "default": asdict(self.default),
            "chosen": asdict(self.chosen),
            "compared": asdict(self.compared) if self.compared else None,
            "stages": [asdict(stage) for stage in self.stages],
            GENERATING: _as_json(self.generating),
            READING: _as_json(self.reading),
            "workloads": {name: asdict(load) for name, load in self.workloads.items()},
            "skipped": self.skipped,
            "seconds": self.seconds,
            "load": self.load,
        }

    def profile(self) -> Profile:
        """Return the profile to be saved."""
        measured = {
            GENERATING: {"default": self.generating.default, "chosen": self.generating.chosen},
            READING: {"default": self.reading.default, "chosen": self.reading.chosen},
        }
        return Profile(settings=self.settings, model=self.model.name, machine=profile.machine(), measured=measured)


class Bench(Protocol):
    """What measures; tests put a machine of their own in its place."""

    def __call__(self, workload: Workload, settings: Sequence[Settings]) -> Sequence[float]:
        """Return the tokens per second of each of the settings."""


def tune(model: Path, options: TuneOptions | None = None, *, progress: Progress = silent) -> TuneResult:
    """Find the fastest settings for a model on this machine.

    Raises:
        GgufFileError: the model cannot be read.
        LlamaCppError: llama-bench failed with the default settings.
        MissingDependencyError: there is no llama-bench.
    """
    check_model_file(model)
    options = options or TuneOptions()

    def bench(workload: Workload, settings: Sequence[Settings]) -> Sequence[float]:
        return workload.measure(model, settings, options.gpu_layers)

    size = model.stat().st_size
    room = cpu.available_memory() > 2 * size
    return Tuner(model, bench, options, can_copy=room, progress=progress).run()


class Tuner:
    """One tuning: what was chosen so far, and how much time is left."""

    def __init__(
        self,
        model: Path,
        bench: Bench,
        options: TuneOptions,
        *,
        can_copy: bool = True,
        most_threads: int | None = None,
        default: Settings | None = None,
        clock: Callable[[], float] = time.monotonic,
        progress: Progress = silent,
    ) -> None:
        """`can_copy`: whether the weights fit into memory beside their file."""
        self._bench = bench
        self._options = options
        self._can_copy = can_copy
        self._most_threads = most_threads or candidates.most_threads()
        self._clock = clock
        self._progress = progress
        self._started = clock()
        self._asked = 0  # stages
        base = default or Settings.default()
        self._result = TuneResult(model=model, default=base, chosen=base)
        self._result.load, self._result.cpus = cpu.load_average(), len(cpu.allowed_cpus())

    def run(self) -> TuneResult:
        """Measure, choose, and make sure."""
        result, default = self._result, self._result.default
        loads = self._workloads()
        best = self._choose("threads", GENERATING, candidates.for_generating(default, self._most_threads))
        threads = best.threads
        best = self._choose("threads for prompts", READING, candidates.for_reading(default, self._most_threads))
        best = self._choose("micro batch", READING, candidates.micro_batches(best, loads[READING].prompt))
        best = replace(best, threads=threads)
        plain = replace(best, flash_attention=FlashAttention.OFF)
        best = self._choose("flash attention", GENERATING, [best, plain], margin=_FOR_MEMORY)
        if self._can_copy:
            copied = replace(best, load_mode=LoadMode.NONE)
            best = self._choose("loading", GENERATING, [best, copied], margin=_FOR_MEMORY)
        for kind in self._options.cache_types:
            stored = replace(best, cache_type_k=kind, cache_type_v=kind, flash_attention=FlashAttention.AUTO)
            best = self._choose(f"keys and values {kind}", GENERATING, [best, stored])
        if best != default:
            result.chosen = self._make_sure(best)
        result.seconds = self._clock() - self._started
        return result

    def _workloads(self) -> dict[str, Workload]:
        """Choose how long measurements are by how fast the default is: about a second each."""
        [reading] = self._bench(Workload(prompt=64), [self._result.default])
        [generating] = self._bench(Workload(generate=8), [self._result.default])
        prompt = max(64, min(2048, 1 << int(max(1.0, reading * 1.5)).bit_length() - 1))
        generate = max(8, min(128, int(generating)))
        depth = prompt if self._options.cache_types else min(prompt // 2, 256)
        loads = {READING: Workload(prompt=prompt), GENERATING: Workload(generate=generate, depth=depth)}
        self._result.workloads = loads
        return loads

    def _choose(self, name: str, workload: str, settings: list[Settings], *, margin: float = SMALLEST_GAIN) -> Settings:
        """Return the fastest of the settings, or the first unless it was beaten in every round and by the margin."""
        self._asked += 1
        if len(settings) < 2:
            return settings[0]
        if not self._has_time(_SHARE_FOR_SEARCH):
            self._result.skipped.append(name)
            return settings[0]
        # A slow beginning must not take the time of what comes later: further rounds have a share of it each.
        share = _SHARE_FOR_SEARCH * self._asked / (_STAGES + len(self._options.cache_types))
        first = iter((True,))
        trials = halve(
            settings, self._measure(workload, name), has_time=lambda: next(first, False) or self._has_time(share)
        )
        self._result.stages.append(Stage(name, workload, settings[0], tuple(trials)))
        start = next(trial for trial in trials if trial.settings == settings[0])
        return trials[0].settings if trials[0].beats(start, margin) else settings[0]

    def _make_sure(self, best: Settings) -> Settings:
        """Measure the choice against the default; return what of it gained, itself measured against the default."""
        result, default = self._result, self._result.default
        tried = best
        while tried != default:
            measures = [self._measure(workload, "making sure") for workload in (GENERATING, READING)]
            generating, reading = compare(default, tried, measures, has_time=lambda: self._has_time(1.0))
            result.generating, result.reading, result.compared = generating, reading, tried
            kept = tried
            if not generating.is_faster:
                kept = replace(default, threads_batch=tried.threads_batch, micro_batch_size=tried.micro_batch_size)
            if not reading.is_faster:
                kept = replace(kept, threads_batch=default.threads_batch, micro_batch_size=default.micro_batch_size)
            if kept == tried:
                # What one of the two gained must not be the other's loss.
                return tried if not (generating.is_slower or reading.is_slower) else default
            if kept == replace(default, threads=tried.threads):
                return kept  # it gained by generating, and reads prompts as the default does
            tried = kept
        return default

    def _measure(self, workload: str, stage: str) -> Measure:
        load = self._result.workloads[workload]

        def measure(settings: Sequence[Settings]) -> Sequence[float]:
            speeds: list[float] = []
            for each in settings:
                spent = int(min(self._clock() - self._started, self._options.seconds))
                self._progress(f"Tuning: {stage}", spent, int(self._options.seconds), "steps")
                try:
                    speeds += self._bench(load, [each])
                except LlamaCppError:
                    if each == self._result.default:
                        raise
                    speeds.append(0.0)  # what llama.cpp refuses is no choice
            return speeds

        return measure

    def _has_time(self, share: float) -> bool:
        return self._clock() - self._started < share * self._options.seconds


def _as_json(comparison: Comparison) -> dict[str, Any]:
    low, high = comparison.bounds
    known = comparison.ratios and high != float("inf")
    return {
        "default": comparison.default,
        "chosen": comparison.chosen,
        "gain": comparison.gain if comparison.ratios else None,
        "bounds": [low, high] if known else None,
        "is_faster": comparison.is_faster,
    }
