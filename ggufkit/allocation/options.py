"""How hard to try, and with what."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from ggufkit.evaluation.likelihood.passes import Running
from ggufkit.quantization.options import QuantizeOptions

_TINY, _SMALL = 20_000_000, 200_000_000  # weights


class Effort(StrEnum):
    """How much is measured."""

    FAST = "fast"  # no probes: what tensors of a kind cost elsewhere, and the model's own curve of types
    NORMAL = "normal"  # probes of some layers of a kind together
    THOROUGH = "thorough"  # a probe for each tensor, more text, and corrections in the mix that was chosen


class How(StrEnum):
    """How it is found out which tensors matter."""

    PROBES = "probes"  # each one, or some layers of a kind, changed and measured
    FISHER = "fisher"  # reading the original backwards; what it does not see is probed


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much text is read, in chunks of 512 tokens, and how much of a tensor is looked at, in rows."""

    probing: int
    choosing: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizeOptions:
    """How to choose types.

    `quantize` holds the importance matrix and what else llama-quantize is told. `pool` is a key of
    `ggufkit.allocation.choices.POOLS`, or a list of types. `folder` is where the state is kept (None: ggufkit's cache);
    `restart` forgets what an earlier run measured. `refine` lets errors make up for each other afterwards (GPTQ).
    `sensitivity` by a backward pass needs the checkpoint, `original`, from which refining a small model learns too;
    `workers` is the address of a Ray cluster that
    measures probes and candidates; None: this machine. With `equalize`, channels are scaled where that loses less.
    """

    effort: Effort = Effort.NORMAL
    pool: str = "usual"
    chunk_tokens: int = 512
    quantize: QuantizeOptions = field(default_factory=lambda: QuantizeOptions(search_scales=True))
    running: Running = field(default_factory=Running)
    folder: Path | None = None
    refine: bool = False
    restart: bool = False
    sensitivity: How = How.PROBES
    original: Path | None = None
    workers: str | None = None
    equalize: bool = True

    def amounts(self, weights: int) -> Amounts:
        """Choose by the model's size only, so that the same model always gets the same: small ones are read quickly."""
        probing, choosing = (8, 64) if weights < _TINY else (8, 48) if weights < _SMALL else (4, 32)
        if self.effort is Effort.FAST:
            return Amounts(4, choosing // 2, 128)
        if self.effort is Effort.THOROUGH:
            return Amounts(2 * probing, choosing, 512)
        return Amounts(probing, choosing, 256)
