"""What a caller may ask of the engine: frozen values that refuse nonsense, with units in their docstrings."""

import math
import re
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from ggufkit.errors import UsageError

DEFAULT_CONTEXT_SIZE = 8192
LARGEST_SEED = 2**32 - 2  # 2**32 - 1 means "any" to llama.cpp


class FlashAttention(StrEnum):
    """Whether attention is computed in one fused step; AUTO: see `attention`."""

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


class LoadMode(StrEnum):
    """How the weights come into memory; AUTO maps the file unless a device does not support that."""

    AUTO = "auto"
    NONE = "none"
    MMAP = "mmap"
    MLOCK = "mlock"
    MMAP_MLOCK = "mmap+mlock"
    DIRECT_IO = "dio"


class SplitMode(StrEnum):
    """How several devices share a model: by whole layers, by rows of matrices, by tensors, or not at all."""

    NONE = "none"
    LAYER = "layer"
    ROW = "row"
    TENSOR = "tensor"


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """A LoRA adapter (a GGUF file) whose changes, times `scale`, are added while computing."""

    path: Path
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values that make no sense. Raises UsageError."""
        _refuse_unless(math.isfinite(self.scale), "the scale of an adapter must be a number")


@dataclass(frozen=True, slots=True)
class TensorOverride:
    """Put the tensors whose name a regular expression matches into a buffer type, such as `CPU` or `CUDA0`."""

    pattern: str
    buffer_type: str

    def __post_init__(self) -> None:
        """Refuse values that make no sense. Raises UsageError."""
        _refuse_unless(bool(self.pattern and self.buffer_type), "a tensor override must be PATTERN=BUFFER_TYPE")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise UsageError(f"{self.pattern!r} is not a regular expression: {error}") from None


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
        micro_batch_size: tokens computed at once; where `attention` leaves the fused kernel, 512 becomes less.
        flash_attention: see FlashAttention.
        cache_type_k: storage type of the keys.
        cache_type_v: storage type of the values.
        vocabulary_only: load no weights: only tokenizing and metadata work.
        adapters: LoRA adapters whose changes are added.
        load_mode: see LoadMode.
        split_mode: see SplitMode.
        main_gpu: index of the device that holds everything when nothing is split.
        tensor_split: what each device gets, as proportions; empty: by free memory.
        tensor_overrides: which tensors go elsewhere.
        devices: names of the devices to use, in this order. None: all; empty: only the CPU.
        rpc_servers: `host:port` of machines whose devices are used as well.
        offload_cache: keep keys and values on the devices that hold their layers.
        offload_operations: let a device compute long prompts also with weights that lie in memory.
        repack: let the CPU keep weights in an order of its own that makes prompts faster.
        most_drafted: tokens that a draft model may have checked in one call; see `drafting`.
        full_window_cache: keep all past tokens for layers that look at a window only, so that prompts can be reused.
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
    adapters: tuple[LoraAdapter, ...] = ()
    load_mode: LoadMode = LoadMode.AUTO
    split_mode: SplitMode = SplitMode.LAYER
    main_gpu: int = 0
    tensor_split: tuple[float, ...] = ()
    tensor_overrides: tuple[TensorOverride, ...] = ()
    devices: tuple[str, ...] | None = None
    rpc_servers: tuple[str, ...] = ()
    offload_cache: bool = True
    offload_operations: bool = True
    repack: bool = True
    full_window_cache: bool = False
    most_drafted: int = 0

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
        _refuse_unless(
            self.flash_attention is not FlashAttention.OFF or self.cache_type_v.bytes_per_value >= 2,
            f"values are stored as {self.cache_type_v} with fused attention only: -fa auto, or -ctv f16",
        )
        _refuse_unless(self.main_gpu >= 0, "main_gpu must not be negative")
        _refuse_unless(
            0 <= self.most_drafted < self.batch_size,
            f"{self.most_drafted} drafted tokens (--draft-max) are too many for batches of {self.batch_size} (-b)",
        )
        shares = self.tensor_split
        _refuse_unless(
            all(math.isfinite(share) and share >= 0 for share in shares) and (not shares or sum(shares) > 0),
            "tensor_split must be proportions of 0 or more",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """How the next token is chosen; the defaults are those of llama.cpp's own programs.

    Attributes:
        temperature: divides the logits; 0 always takes the likeliest token.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the likeliest tokens whose probabilities add up to p; 1 keeps all.
        min_p: drop tokens less likely than p times the likeliest; 0 drops none.
        typical_p: keep the tokens whose surprise is closest to what is expected, up to sum p; 1 keeps all.
        top_n_sigma: keep tokens within n standard deviations of the largest logit; negative keeps all.
        xtc_probability: chance of leaving out the likeliest tokens but the last above `xtc_threshold`; 0: never.
        xtc_threshold: see `xtc_probability`; above 0.5 it has no effect.
        repeat_penalty: divides the logits of recent tokens; 1 changes nothing.
        repeat_last_n: how many recent tokens, prompt included, the penalties look at.
        presence_penalty: subtracted from the logits of recent tokens.
        frequency_penalty: subtracted from the logits of recent tokens once for each time that they occur.
        dry_multiplier: strength of the penalty on going on with a repeated sequence; 0: none.
        dry_base: how fast that penalty grows with the length of the sequence.
        dry_allowed_length: sequences up to this length may be repeated.
        dry_penalty_last_n: how many recent tokens are searched for repeated sequences.
        logit_bias: pairs of a token and what is added to its logit; minus infinity forbids it.
        ignore_eos: forbid all tokens that end a reply.
        grammar: GBNF with a rule `root` that the reply has to follow.
        seed: 0 to 2**32 - 2 for the same draws every time; None for different ones.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 64
    logit_bias: tuple[tuple[int, float], ...] = ()
    ignore_eos: bool = False
    grammar: str | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse values that make no sense. Raises UsageError."""
        for option in fields(self):  # llama.cpp gets them as C has them, and they may come from a file
            value, kind = getattr(self, option.name), _NUMBERS.get(option.type)
            sound = kind is None or (isinstance(value, kind) and isinstance(value, bool) is (kind is bool))
            _refuse_unless(
                sound or (option.type == int | None and value is None),
                f"{option.name} must be {_WANTED.get(option.type, 'a whole number')}, not {value!r}",
            )
        _refuse_unless(_between(self.temperature, 0, 1000), "temperature must be between 0 and 1000")
        _refuse_unless(0 <= self.top_k < 2**31, "top_k must be between 0 and 2147483647")
        _refuse_unless(_between(self.top_p, 0, 1), "top_p must be between 0 and 1")
        _refuse_unless(_between(self.min_p, 0, 1), "min_p must be between 0 and 1")
        _refuse_unless(self.repeat_penalty > 0 and _between(self.repeat_penalty, 0, 1000), "repeat_penalty must be > 0")
        _refuse_unless(0 <= self.repeat_last_n < 2**31, "repeat_last_n must be 0 or more")
        for name in ("typical_p", "xtc_probability", "xtc_threshold"):
            _refuse_unless(_between(getattr(self, name), 0, 1), f"{name} must be between 0 and 1")
        for name in ("presence_penalty", "frequency_penalty", "top_n_sigma"):
            _refuse_unless(_between(getattr(self, name), -1000, 1000), f"{name} must be between -1000 and 1000")
        for name in ("dry_multiplier", "dry_base"):
            _refuse_unless(_between(getattr(self, name), 0, 1000), f"{name} must be between 0 and 1000")
        for name in ("dry_allowed_length", "dry_penalty_last_n"):
            _refuse_unless(0 <= getattr(self, name) < 2**31, f"{name} must be 0 or more")
        for token, bias in self.logit_bias:
            _refuse_unless(token >= 0 and not math.isnan(bias), "logit_bias must be pairs of a token and a number")
        _refuse_unless(
            self.seed is None or 0 <= self.seed <= LARGEST_SEED, f"seed must be between 0 and {LARGEST_SEED}"
        )


_NUMBERS: dict[Any, Any] = {float: (int, float), int: int, int | None: int, bool: bool}
_WANTED: dict[Any, str] = {float: "a number", bool: "true or false"}


def _between(value: float, low: float, high: float) -> bool:
    return low <= value <= high  # never true of NaN; an integer that no float holds is compared all the same


def _refuse_unless(sound: bool, message: str) -> None:
    if not sound:
        raise UsageError(message)
