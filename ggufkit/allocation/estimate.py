"""How long the work will take and how much disk it needs, said before it starts."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ggufkit.allocation.choices import Choices, Types
from ggufkit.allocation.measuring import Setting
from ggufkit.allocation.row_errors import sampled_rows
from ggufkit.allocation.verification import threads_of
from ggufkit.allocation.weights import rows_of, through
from ggufkit.evaluation.likelihood.logits_file import estimated_bytes
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp import cpu
from ggufkit.llamacpp.ggml import Ggml

_T = TensorType
# Millions of weights that one core encodes in a second, relative to Q4_K: measured on one machine, one thread.
_SPEEDS: Mapping[TensorType, float] = {
    _T.IQ1_S: 0.1, _T.IQ1_M: 0.1, _T.IQ2_XXS: 0.15, _T.IQ2_XS: 0.25, _T.IQ2_S: 0.39, _T.Q2_K: 0.90,
    _T.IQ3_XXS: 0.23, _T.Q3_K: 3.2, _T.IQ3_S: 0.34, _T.IQ4_XS: 0.49, _T.IQ4_NL: 0.49, _T.Q4_0: 4.6, _T.Q4_K: 1.0,
    _T.Q4_1: 0.97, _T.Q5_K: 1.1, _T.Q5_0: 5.0, _T.Q5_1: 1.0, _T.Q6_K: 3.9, _T.Q8_0: 23.0,
}  # fmt: skip
_SAMPLE = 1 << 18  # weights
_START = 0.4  # seconds until a process of ours has loaded what it needs


@dataclass(frozen=True, slots=True)
class Speeds:
    """What this machine does: weights that one core stores as Q4_K in a second, and tokens that one process reads."""

    q4_k: float
    tokens_per_second: float
    load_seconds: float = 0.0

    def encoding(self, weights: float, kind: TensorType) -> float:
        """Seconds that one core takes to store weights in a type."""
        return weights / (self.q4_k * _SPEEDS.get(kind, 0.5))


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds of each stage, in the order of the work, and bytes on disk while it runs (the results not counted)."""

    stages: Mapping[str, float]
    disk_bytes: int
    probes: int = 0
    seconds_per_probe: float = 0.0

    @property
    def seconds(self) -> float:
        """All stages together."""
        return sum(self.stages.values())


def encoding_speed(library: Ggml) -> float:
    """Measure how many weights one core stores as Q4_K in a second."""
    values = np.random.default_rng(0).standard_normal(_SAMPLE).astype(np.float32)
    started = time.perf_counter()
    through(library, values, TensorType.Q4_K, 256, None)
    return _SAMPLE / max(1e-6, time.perf_counter() - started)


def estimate(
    speeds: Speeds,
    choices: Sequence[Choices],
    *,
    rows: int,
    curve: Sequence[Types],
    groups: Sequence[Types],
    rounds: int,
    candidates: int,
    files: int,
    probing: Setting,
    choosing: Setting,
    calibration_tokens: int,
    largest_file: int,
) -> Estimate:
    """Add up what the stages take; `curve` and `groups` are what will be stored and read."""
    cores, side = probing.running.threads or cpu.usable_cores(), probing.processes
    weights = {choice.name: choice.weights for choice in choices}
    all_weights = sum(weights.values())
    tokens = len(probing.chunks.tokens) * probing.chunks.length
    reading = tokens / speeds.tokens_per_second
    per_process = threads_of(probing)

    def measuring(questions: Sequence[Types]) -> float:
        storing = sum(speeds.encoding(weights[name], kind) for types in questions for name, kind in types.items())
        return (len(questions) * reading + storing / per_process) / side

    choosing_tokens = len(choosing.chunks.tokens) * choosing.chunks.length
    read = choosing_tokens / speeds.tokens_per_second
    making = speeds.encoding(all_weights, _T.Q4_K) * 1.3 / cores
    sampled = sum(
        _sampled(choice, rows) / (speeds.q4_k * _SPEEDS.get(kind, 0.5))
        for choice in choices
        for kind in choice.types[:-1]
    )
    stages = {
        "importance matrix": calibration_tokens / (speeds.tokens_per_second * side),
        "errors of types": sampled / cores,
        "curve of types": measuring(curve) + (_START if curve else 0),
        "probes": measuring(groups) + (_START if groups else 0),
        "corrections": rounds * reading * 12 / side,
        "candidates": read + candidates * (making + read / choosing.processes + _START / choosing.processes),
        "result": files * making,
    }
    vocabulary, length = probing.chunks.vocabulary_size, probing.chunks.length
    disk = side * probing.bytes + choosing.processes * largest_file
    disk += sum(estimated_bytes(vocabulary, length, len(each.chunks.tokens)) for each in (probing, choosing))
    count = len(groups)
    return Estimate(
        {name: seconds for name, seconds in stages.items() if seconds > 0},
        disk,
        count,
        measuring(groups) / count if count else 0.0,
    )


def _sampled(choice: Choices, rows: int) -> int:
    columns, of_expert, experts = rows_of(choice.tensor)
    return columns * experts * len(list(sampled_rows(of_expert, experts, rows)))
