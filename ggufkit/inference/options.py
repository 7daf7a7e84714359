"""What a caller may ask of the engine: frozen values that refuse nonsense, with units in their docstrings."""

import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

from ggufkit.errors import UsageError

DEFAULT_CONTEXT_SIZE = 8192
LARGEST_SEED = 2**32 - 2  # 2**32 - 1 means "any" to llama.cpp


class FlashAttention(StrEnum):
    """Whether attention is computed in one fused step; AUTO lets llama.cpp decide by device."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class CacheType(StrEnum):
    """How keys and values of past tokens are stored; a quantized value cache needs flash attention."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"
    Q5_1 = "q5_1"
    Q5_0 = "q5_0"
    Q4_1 = "q4_1"
    Q4_0 = "q4_0"
    IQ4_NL = "iq4_nl"

    @property
    def bytes_per_value(self) -> float:
        """Return how much memory one number takes, the scales of its block included."""
        return _BYTES_PER_VALUE[self]


_BYTES_PER_VALUE = {  # ggml-common.h: blocks of 32 values and their scales
    CacheType.F32: 4,
    CacheType.F16: 2,
    CacheType.BF16: 2,
    CacheType.Q8_0: 34 / 32,
    CacheType.Q5_1: 24 / 32,
    CacheType.Q5_0: 22 / 32,
    CacheType.Q4_1: 20 / 32,
    CacheType.Q4_0: 18 / 32,
    CacheType.IQ4_NL: 18 / 32,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How a model is loaded.

    Attributes:
        context_size: tokens that prompt and reply may fill together. None: the model's training context, at most
            8192; 0: the model's training context, whatever memory that takes.
        gpu_layers: layers held by GPUs. "auto" and "all": all of them, if the build sees a GPU.
        threads: CPU threads for generating. None: the physical cores that this process may use.
        threads_batch: CPU threads for reading prompts. None: as `threads`.
        batch_size: tokens handed to llama.cpp in one call.
        micro_batch_size: tokens computed at once.
        flash_attention: see FlashAttention.
        cache_type_k: storage type of the keys.
        cache_type_v: storage type of the values.
        vocabulary_only: load no weights: only tokenizing and metadata work.
        adapters: LoRA adapters (GGUF files) whose changes are added while computing.
    """

    context_size: int | None = None
    gpu_layers: int | Literal["auto", "all"] = "auto"
    threads: int | None = None
    threads_batch: int | None = None
    batch_size: int = 2048
    micro_batch_size: int = 512
    flash_attention: FlashAttention = FlashAttention.AUTO
    cache_type_k: CacheType = CacheType.F16
    cache_type_v: CacheType = CacheType.F16
    vocabulary_only: bool = False
    adapters: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        """Refuse values that make no sense. Raises UsageError."""
        _refuse_unless(self.context_size is None or self.context_size >= 0, "context_size must not be negative")
        _refuse_unless(self.threads is None or self.threads > 0, "threads must be positive")
        _refuse_unless(self.threads_batch is None or self.threads_batch > 0, "threads_batch must be positive")
        _refuse_unless(self.batch_size > 0, "batch_size must be positive")
        _refuse_unless(self.micro_batch_size > 0, "micro_batch_size must be positive")
        _refuse_unless(
            self.gpu_layers in {"auto", "all"} or (isinstance(self.gpu_layers, int) and self.gpu_layers >= 0),
            f"gpu_layers must be a number, auto or all, not {self.gpu_layers!r}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """How the next token is chosen; the defaults are those of llama.cpp's own programs.

    Attributes:
        temperature: divides the logits; 0 always takes the likeliest token.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the likeliest tokens whose probabilities add up to p; 1 keeps all.
        min_p: drop tokens less likely than p times the likeliest; 0 drops none.
        repeat_penalty: divides the logits of recent tokens; 1 changes nothing.
        repeat_last_n: how many recent tokens, prompt included, the penalty looks at.
        seed: 0 to 2**32 - 2 for the same draws every time; None for different ones.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse values that make no sense. Raises UsageError."""
        _refuse_unless(_between(self.temperature, 0, 1000), "temperature must be 0 or more")
        _refuse_unless(0 <= self.top_k < 2**31, "top_k must be 0 or more")
        _refuse_unless(_between(self.top_p, 0, 1), "top_p must be between 0 and 1")
        _refuse_unless(_between(self.min_p, 0, 1), "min_p must be between 0 and 1")
        _refuse_unless(self.repeat_penalty > 0 and _between(self.repeat_penalty, 0, 1000), "repeat_penalty must be > 0")
        _refuse_unless(0 <= self.repeat_last_n < 2**31, "repeat_last_n must be 0 or more")
        _refuse_unless(
            self.seed is None or 0 <= self.seed <= LARGEST_SEED, f"seed must be between 0 and {LARGEST_SEED}"
        )


def _between(value: float, low: float, high: float) -> bool:
    return math.isfinite(value) and low <= value <= high


def _refuse_unless(sound: bool, message: str) -> None:
    if not sound:
        raise UsageError(message)
