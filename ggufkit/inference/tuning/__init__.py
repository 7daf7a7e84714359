"""Tuning: which settings run a model fastest on this machine, measured with llama-bench, never slower than the default.

Threads for generating are chosen by generating; threads for prompts and the micro batch by reading a prompt; flash
attention, the way of loading and, only when asked for, the types of keys and values by generating behind a filled
context. What is chosen is then measured anew beside the default, and each part is kept only if it gained.

The default is what chat would run: on a CPU, in a long context, attention that is not fused (see `attention`). Since
that one gains with what the context holds, the fused one has to be faster behind as many tokens as there is time for.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ggufkit.errors import LlamaCppError, UsageError
from ggufkit.inference import placement
from ggufkit.inference.attention import LONG_CONTEXT, attention, fits_unfused
from ggufkit.inference.model_file import check_model_file, context_tokens
from ggufkit.inference.options import CacheType, EngineOptions, FlashAttention, LoadMode
from ggufkit.inference.tuning import settings as candidates
from ggufkit.inference.tuning.bench_measure import Workload
from ggufkit.inference.tuning.result import FAR, GENERATING, READING, Stage, TuneResult
from ggufkit.inference.tuning.settings import Settings
from ggufkit.inference.tuning.trials import SMALLEST_GAIN, Measure, compare, halve
from ggufkit.llamacpp import cpu
from ggufkit.progress import Progress, silent

_SHARE_FOR_SEARCH = 0.6  # of the time; the rest is for being sure
_STAGES = 5  # beside those for types of keys and values
_SHARE_FOR_DEPTH = 1 / 16  # of the time, for filling a context once
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
        if not 0 < self.seconds < math.inf:
            raise UsageError("the time for tuning must be positive")


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
    header = check_model_file(model)
    options = options or TuneOptions()
    context = context_tokens(header, None)
    on_cpu = placement.is_on_cpu(EngineOptions())
    default = Settings.default(attention(EngineOptions(), header, context, on_cpu=on_cpu))

    def bench(workload: Workload, settings: Sequence[Settings]) -> Sequence[float]:
        return workload.measure(model, settings, options.gpu_layers)

    size = model.stat().st_size
    room = cpu.available_memory() > 2 * size
    return Tuner(
        model,
        bench,
        options,
        default=default,
        can_copy=room,
        fits_unfused=lambda size: fits_unfused(header, context, size),
        progress=progress,
    ).run()


class Tuner:
    """One tuning: what was chosen so far, and how much time is left."""

    def __init__(
        self,
        model: Path,
        bench: Bench,
        options: TuneOptions,
        *,
        default: Settings,
        can_copy: bool = True,
        fits_unfused: Callable[[int], bool] = lambda _: True,
        most_threads: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        progress: Progress = silent,
    ) -> None:
        """Begin with the `default`.

        `can_copy`: whether the weights fit into memory beside their file; `fits_unfused`: whether what so many tokens
        at once take does, where attention is not fused.
        """
        self._bench = bench
        self._options = options
        self._can_copy = can_copy
        self._fits_unfused = fits_unfused
        self._most_threads = most_threads or candidates.most_threads()
        self._clock = clock
        self._progress = progress
        self._started = clock()
        self._asked = 0  # stages
        self._result = TuneResult(model=model, default=default, chosen=default)
        self._result.load, self._result.cpus = cpu.load_average(), len(cpu.allowed_cpus())

    def run(self) -> TuneResult:
        """Measure, choose, and make sure."""
        result, default = self._result, self._result.default
        loads = self._workloads()
        best = self._choose("threads", GENERATING, candidates.for_generating(default, self._most_threads))
        threads = best.threads
        best = self._choose("threads for prompts", READING, candidates.for_reading(default, self._most_threads))
        best = self._choose(
            "micro batch", READING, candidates.micro_batches(best, loads[READING].prompt, self._fits_unfused)
        )
        best = replace(best, threads=threads)
        best = self._choose("flash attention", FAR, [best, candidates.other_attention(best)], margin=_FOR_MEMORY)
        if self._can_copy:
            copied = replace(best, load_mode=LoadMode.NONE)
            best = self._choose("loading", GENERATING, [best, copied], margin=_FOR_MEMORY)
        for kind in self._options.cache_types:
            stored = candidates.with_cache_type(best, kind)
            workload = FAR if stored.flash_attention is not best.flash_attention else GENERATING
            best = self._choose(f"keys and values {kind}", workload, [best, stored])
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
        far = depth
        if self._result.default.flash_attention is FlashAttention.OFF:
            affordable = int(max(1.0, reading * self._options.seconds * _SHARE_FOR_DEPTH))
            far = max(depth, min(LONG_CONTEXT, 1 << affordable.bit_length() - 1))
        loads = {
            READING: Workload(prompt=prompt),
            GENERATING: Workload(generate=generate, depth=depth),
            FAR: Workload(generate=generate, depth=far),
        }
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
            same_attention = tried.flash_attention is default.flash_attention
            workloads = (GENERATING if same_attention else FAR, READING)
            measures = [self._measure(workload, "making sure") for workload in workloads]
            generating, reading = compare(default, tried, measures, has_time=lambda: self._has_time(1.0))
            result.generating, result.reading, result.compared = generating, reading, tried
            kept = tried
            if not generating.is_faster:
                kept = replace(default, threads_batch=tried.threads_batch)
                if same_attention:  # else the micro batch belongs to the other attention
                    kept = replace(kept, micro_batch_size=tried.micro_batch_size)
            if not reading.is_faster:
                kept = replace(kept, threads_batch=default.threads_batch)
                if same_attention:
                    kept = replace(kept, micro_batch_size=default.micro_batch_size)
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
