"""What came of it: files with their figures, the curve of all sizes, and what both are based on."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.allocation.choices import Types
from ggufkit.allocation.chunks import TextCheck
from ggufkit.allocation.estimate import Estimate
from ggufkit.allocation.model import Model
from ggufkit.allocation.prediction import Prediction
from ggufkit.allocation.refinement.refine import RefinedTensor
from ggufkit.allocation.sensitivity import Sensitivity
from ggufkit.allocation.verification import Verified
from ggufkit.evaluation.likelihood.statistics import PairedDifference


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """A size of a whole file in bytes, its bits per weight (tensors alone), and the divergence foretold, in nats.

    `predicted_by_probes` is the sum over tensors, `predicted` the same in proportion to what files turned out to have.
    `preset` names the preset whose size and types these are; None for what the knapsack picked.
    """

    bytes: int
    bits_per_weight: float
    predicted: float
    predicted_by_probes: float
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


@dataclass(frozen=True, slots=True)
class Probed:
    """A group of tensors whose divergence (nats) is known twice: by a backward pass, and by a probe."""

    name: str
    foretold: float
    measured: float


@dataclass(frozen=True, slots=True)
class Optimization:
    """All that came of one study: the files, the curve of all sizes, and what they are based on.

    `sensitivities` are those of single tensors, by whichever means; `compared` has groups that a backward pass foretold
    and an earlier run has probed. `equalized` is how many channels were scaled,
    `scales_searched` that a file has better scales than ggml's encoder finds.
    """

    files: tuple[Optimized, ...]
    frontier: tuple[FrontierPoint, ...]
    estimate: Estimate
    seconds: float
    model: Model
    texts: TextCheck
    sensitivities: Mapping[str, Sensitivity]
    compared: tuple[Probed, ...] = ()
    equalized: int = 0
    scales_searched: bool = False


def frontier_of(
    model: Model,
    picked: Sequence[tuple[int, float]],
    prediction: Prediction,
    of_presets: Prediction,
    presets_worse: float = 1.0,
) -> tuple[FrontierPoint, ...]:
    """Give the curve of sizes: what the knapsack picks, and the presets. `picked` has bytes and sums of costs.

    `of_presets` foretells files with ggml's scales; `presets_worse` is how many times as much a preset was measured to
    lose as is foretold so, for its channels are not equalized.
    """
    plain, plain_presets = (replace(each, scale=1.0) for each in (prediction, of_presets))
    points = []
    for size, cost in picked:
        whole = model.fixed_bytes + size
        points.append(FrontierPoint(whole, model.bits_per_weight(whole), prediction.of_sum(cost), plain.of_sum(cost)))
    for name, planned in model.presets.items():
        types, size = model.preset_types(name), planned.bytes_after
        told, by_probes = (presets_worse * each.of(types) for each in (of_presets, plain_presets))
        points.append(FrontierPoint(size, planned.bits_per_weight_after, told, by_probes, name))
    return tuple(sorted(points, key=lambda point: (point.bytes, point.preset or "")))
