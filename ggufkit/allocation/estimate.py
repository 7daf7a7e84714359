"""How long the work will take and how much disk it needs, computed from what this machine was measured to do."""

import time
from collections.abc import Callable, Mapping, Sequence
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
# The same of searching for scales afterwards.
_SEARCHED: Mapping[TensorType, float] = {
    _T.IQ2_XXS: 0.085, _T.IQ2_XS: 0.045, _T.IQ2_S: 0.02, _T.Q2_K: 0.2, _T.IQ3_XXS: 0.05, _T.Q3_K: 0.28, _T.IQ3_S: 0.04,
    _T.IQ4_XS: 0.14, _T.IQ4_NL: 0.35, _T.Q4_0: 0.85, _T.Q4_K: 0.22, _T.Q4_1: 0.46, _T.Q5_K: 0.22, _T.Q5_0: 1.1,
    _T.Q5_1: 0.46, _T.Q6_K: 0.28, _T.Q8_0: 1.1,
}  # fmt: skip
_NEAR = 1.5  # bits per weight: how far the types of a file lie from its mean
_SAMPLE = 1 << 18  # weights
_START = 0.4  # seconds until a process of ours has loaded what it needs
# Measured on small models, on one machine: bytes of a checkpoint converted; in units of plain reading, reading with
# sums of inputs, with gradients, and writing token by token.
_CONVERTED_PER_SECOND = 2.5e8
_READING_WITH_MOMENTS, _PASSES_OF_GRADIENTS, _WRITING = 2.0, 15.0, 4.0
_START_OF_TORCH = 8.0


@dataclass(frozen=True, slots=True)
class _Feedback:
    """Seconds that one core takes to refine a weight, at once and for each column besides, or twice in order."""

    at_once: float
    per_column: float
    in_order: float
    across_rows: float


# Measured on the same machine, of types with levels and with patterns: compiled, and by NumPy.
_COMPILED = _Feedback(3.6e-6, 5e-10, 5.5e-6, 1.2e-5)
_BY_NUMPY = _Feedback(7.8e-6, 5e-10, 1.1e-5, 3.5e-5)


@dataclass(frozen=True, slots=True)
class Speeds:
    """What this machine does in a second: weights that one core stores as Q4_K, tokens that one process reads."""

    q4_k: float
    tokens_per_second: float
    load_seconds: float = 0.0
    written_per_second: float = 0.0  # tokens that the model writes, where it was asked to

    def encoding(self, weights: float, kind: TensorType) -> float:
        """Seconds that one core takes to store weights in a type."""
        return weights / (self.q4_k * _SPEEDS.get(kind, 0.5))

    def searching(self, weights: float, kind: TensorType) -> float:
        """Seconds that one core takes to search for the scales of weights in a type."""
        return weights / (self.q4_k * _SEARCHED[kind]) if kind in _SEARCHED else 0.0


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


@dataclass(frozen=True, slots=True)
class Before:
    """What has to be made before types can be chosen: a GGUF file of so many bytes, text, and the importance matrix."""

    converted_bytes: int = 0
    written_tokens: int = 0
    calibration_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What will be done: the mixes that are stored and read, the files that are made, and how.

    `curve`, `groups` and `mixes` are what is overwritten in a scratch copy; a mix stores all weights. `refined` counts
    the refined candidates, each of which learns from `learned_tokens`; a model writes `own_tokens` of these by itself,
    and its checkpoint reads `backwards_tokens`, which leaves `backwards_bytes`. `in_order` and `is_compiled` say how
    they are refined.
    """

    rows: int
    curve: Sequence[Types]
    groups: Sequence[Types]
    rounds: int
    candidates: int
    mixes: int
    files: int
    largest_file: int
    refined: int = 0
    learned_tokens: int = 0
    own_tokens: int = 0
    backwards_tokens: int = 0
    backwards_bytes: int = 0
    in_order: bool = False
    is_compiled: bool = True
    by_gradients: int = 0  # weights of tensors that a backward pass tells about
    searched_rows: int = 0  # of a tensor, to see what better scales are worth; 0: files have ggml's


def estimate(
    speeds: Speeds, choices: Sequence[Choices], asked: Asked, before: Before, probing: Setting, choosing: Setting
) -> Estimate:
    """Add up what the stages take."""
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
    bits = 8 * asked.largest_file / max(1, all_weights)
    making = sum(_about(speeds.encoding, choice, bits) for choice in choices) / cores
    sampled = sum(
        speeds.encoding(_sampled(choice, asked.rows), kind) for choice in choices for kind in choice.types[:-1]
    )
    plainly = making
    if asked.searched_rows:
        making += sum(_about(speeds.searching, choice, bits) for choice in choices) / cores
        sampled += sum(
            way(_sampled(choice, asked.searched_rows), kind)
            for choice in choices
            for kind in choice.types[:-1]
            for way in (speeds.encoding, speeds.encoding, speeds.searching)
        )
    whole = all_weights / speeds.q4_k / per_process + reading  # of a mix
    judged = making + (read + _START) / choosing.processes
    learning = _READING_WITH_MOMENTS * asked.learned_tokens / (speeds.tokens_per_second * side)
    writing = _WRITING * asked.own_tokens / speeds.tokens_per_second
    backwards = (
        _PASSES_OF_GRADIENTS * asked.backwards_tokens / (speeds.tokens_per_second * side) + _START_OF_TORCH
        if asked.backwards_tokens
        else 0.0
    )
    feedback = _COMPILED if asked.is_compiled else _BY_NUMPY
    of_columns = sum(choice.weights * choice.tensor.shape[0] for choice in choices)
    rounded = (all_weights * feedback.at_once + of_columns * feedback.per_column) / cores
    if asked.in_order:
        rounded = all_weights * feedback.in_order / (cores if asked.is_compiled else 1)
    if asked.in_order and asked.backwards_tokens:  # few rows at a time, which two threads can share
        rounded = all_weights * feedback.across_rows / (min(cores, 2) if asked.is_compiled else 1)
    refining = learning + rounded + judged - making + plainly
    stages = {
        "conversion": before.converted_bytes / _CONVERTED_PER_SECOND,
        "text of its own": before.written_tokens / speeds.written_per_second if speeds.written_per_second else 0.0,
        "importance matrix": before.calibration_tokens / (speeds.tokens_per_second * side),
        "errors of types": sampled / cores,
        "curve of types": measuring(asked.curve) + (_START if asked.curve else 0),
        "backward pass": _PASSES_OF_GRADIENTS * reading / side
        + speeds.encoding(asked.by_gradients, _T.Q3_K)
        + _START_OF_TORCH
        if asked.by_gradients
        else 0.0,
        "probes": measuring(asked.groups) + (_START if asked.groups else 0),
        "corrections": asked.rounds * reading * 12 / side,
        "candidates": (read if asked.candidates else 0.0) + asked.candidates * judged,
        "mixes": asked.mixes * whole / side,
        "refining": asked.refined * refining + (writing + backwards if asked.refined else 0.0),
        "result": asked.files * making,
    }
    vocabulary, length = probing.chunks.vocabulary_size, probing.chunks.length
    disk = side * probing.bytes + choosing.processes * asked.largest_file + before.converted_bytes
    disk += sum(estimated_bytes(vocabulary, length, len(each.chunks.tokens)) for each in (probing, choosing))
    disk += 2 * asked.by_gradients + min(asked.refined, 2) * probing.bytes
    disk += asked.backwards_bytes if asked.refined else 0
    count = len(asked.groups)
    return Estimate(
        {name: seconds for name, seconds in stages.items() if seconds > 0},
        disk,
        count,
        measuring(asked.groups) / count if count else 0.0,
    )


def _about(way: Callable[[float, TensorType], float], choice: Choices, bits: float) -> float:
    """Seconds that one core takes for a tensor in one of the types of about so many bits per weight."""
    near = [kind for kind in choice.types[:-1] if abs(kind.bits_per_weight - bits) < _NEAR] or choice.types[-1:]
    return sum(way(choice.weights, kind) for kind in near) / len(near)


def _sampled(choice: Choices, rows: int) -> int:
    columns, of_expert, experts = rows_of(choice.tensor)
    return columns * experts * len(list(sampled_rows(of_expert, experts, rows)))
