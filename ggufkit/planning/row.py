"""One line of a plan: what one type costs and brings."""

from dataclasses import dataclass

from ggufkit.planning.memory import Fit, Memory
from ggufkit.planning.quality import Quality
from ggufkit.quantization.plan import QuantizationPlan
from ggufkit.quantization.types import QuantizationType


@dataclass(frozen=True, slots=True)
class Row:
    """A type, the exact file that it makes of a model, and what is expected of that. None: not known."""

    type: QuantizationType
    plan: QuantizationPlan
    needs_imatrix: bool
    memory: Memory | None
    fit: Fit | None
    fits_vram: Fit | None
    quality: Quality | None
    tokens_per_second: float | None
    disk: int  # bytes that must be free to get there, the result included

    @property
    def name(self) -> str:
        """The type's name."""
        return self.type.name

    @property
    def bytes(self) -> int:
        """The size of the file."""
        return self.plan.bytes_after
