"""What came of it: files with their figures, and the curve of all sizes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.allocation.choices import Types
from ggufkit.allocation.model import Model
from ggufkit.allocation.prediction import Prediction
from ggufkit.allocation.refinement.refine import RefinedTensor
from ggufkit.allocation.verification import Verified
from ggufkit.evaluation.likelihood.statistics import PairedDifference


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """A size of a whole file in bytes, its bits per weight, and the divergence foretold, in nats.

    `preset` names the preset whose size and types these are; None for what the knapsack picked.
    """

    bytes: int
    bits_per_weight: float
    predicted: float
    preset: str | None = None


@dataclass(frozen=True, slots=True)
class Optimized:
    """One file that was made, and what was measured on the way.

    `chosen` was shipped, `verified` are all candidates on text that chose nothing else; `difference` is the chosen
    one's mean divergence minus the preset's, None where the preset was chosen or none is so small. `refined` says what
    became of each tensor where refined weights were shipped.
    """

    target: str
    budget: int
    output: Path
    recipe: Path
    bytes: int
    bits_per_weight: float
    types: Types
    chosen: Verified
    verified: tuple[Verified, ...]
    preset: Verified | None
    difference: PairedDifference | None
    refined: tuple[RefinedTensor, ...]
    seconds: float

    @property
    def tensor_types(self) -> Mapping[str, int]:
        """How many tensors have each type."""
        return dict(Counter(kind.name for kind in self.types.values()).most_common())


def frontier_of(model: Model, picked: Sequence[tuple[int, float]], prediction: Prediction) -> tuple[FrontierPoint, ...]:
    """Give the curve of sizes: what the knapsack picks, and the presets. `picked` has bytes and sums of costs."""
    points = [
        FrontierPoint(model.fixed_bytes + size, 8 * (model.fixed_bytes + size) / model.weights, prediction.of_sum(cost))
        for size, cost in picked
    ]
    for name, planned in model.presets.items():
        types = model.preset_types(name)
        bits = 8 * planned.bytes_after / model.weights
        points.append(FrontierPoint(planned.bytes_after, bits, prediction.of(types), name))
    return tuple(sorted(points, key=lambda point: (point.bytes, point.preset or "")))
