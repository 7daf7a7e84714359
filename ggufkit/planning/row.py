"""One line of a plan: what one type costs and brings."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ggufkit.planning.memory import Fit, Memory
from ggufkit.planning.quality import Quality
from ggufkit.quantization.plan import Fallback, PlannedTensor
from ggufkit.quantization.types import QuantizationType

AS_IT_IS = "as it is"


@dataclass(frozen=True, slots=True)
class Row:
    """A type, the exact file that it makes of a model, and what is expected of that. None: not known.

    `type` is None for the source itself, where that can be run as it is.
    """

    type: QuantizationType | None
    bytes: int
    tensors: tuple[PlannedTensor, ...]
    fallbacks: tuple[Fallback, ...]
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
        return self.type.name if self.type else AS_IT_IS

    @property
    def fits_somewhere(self) -> Fit | None:
        """Whether it fits in the GPU, if there is one, or else in memory."""
        return Fit.YES if self.fits_vram is Fit.YES else self.fit

    @property
    def bits_per_weight(self) -> float:
        """Bits in all tensors per weight."""
        elements = sum(math.prod(tensor.shape) for tensor in self.tensors)
        return 8 * sum(tensor.bytes_after for tensor in self.tensors) / max(1, elements)

    @property
    def tensor_types(self) -> Mapping[str, int]:
        """How many tensors have each type, the most frequent first."""
        return dict(Counter(tensor.to.name for tensor in self.tensors).most_common())
