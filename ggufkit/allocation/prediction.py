"""What a choice of types will cost, foretold: the sum over tensors, corrected by what was measured with all of them.

Divergences add up nearly, not exactly: at few bits they are more than their sum. What was measured with all tensors in
one type, against the sum for that type, says by how much at every height.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ggufkit.allocation.choices import Types
from ggufkit.allocation.sensitivity import Costs
from ggufkit.evaluation.error_bounds import BOUNDS

_MOST_SCALE = 4.0


@dataclass(frozen=True, slots=True)
class Prediction:
    """Costs of single tensors, and pairs of (their sum, what was measured), in nats, the smallest first.

    `scale` is what files have measured against what was foretold of them, on the text that they read. `inputs` is what
    rounded inputs cost each tensor, which is no part of the pairs.
    """

    costs: Costs
    known: tuple[tuple[float, float], ...]
    scale: float = 1.0
    inputs: Costs = field(default_factory=dict)

    def of(self, types: Types) -> float:
        """Foretell the mean divergence, in nats."""
        return self.of_sum(math.fsum(self.cost(name, types) for name in self.costs), self.of_inputs(types))

    def of_sum(self, total: float, inputs: float = 0.0) -> float:
        """Foretell it from the sum over tensors, and that of what their rounded inputs cost."""
        if total <= 0:
            return self.scale * inputs
        return self.scale * (total * self._correction(total) + inputs)

    def of_inputs(self, types: Types) -> float:
        """Foretell what the rounding of inputs costs, in nats."""
        found = []
        for name, costs in self.inputs.items():
            kind = types.get(name)
            if kind is not None and kind.is_quantized:
                alike = [
                    cost for each, cost in costs.items() if each.is_quantized and each.block_size == kind.block_size
                ]
                found.append(costs[kind] if kind in costs else max(alike, default=0.0))
        return math.fsum(found)

    def scaled_by(self, types: Types, measured: float) -> "Prediction":
        """Learn from a file that was measured."""
        foretold = self.of(types) / self.scale
        if foretold <= 0 or measured <= 0:
            return self
        return replace(self, scale=min(_MOST_SCALE, max(1 / _MOST_SCALE, measured / foretold)))

    def cost(self, name: str, types: Types) -> float:
        """Give the cost of one tensor in a choice of types, in nats."""
        costs = self.costs[name]
        kind = types[name]
        if kind in costs:
            return costs[kind]
        # A preset may use a type that is not in the pool: the nearest one by size, in proportion to typical errors.
        known = [each for each in costs if costs[each] > 0 and each in BOUNDS]
        if kind not in BOUNDS or not known:
            return 0.0
        near = min(known, key=lambda each: (abs(each.bits_per_weight - kind.bits_per_weight), int(each)))
        return costs[near] * (BOUNDS[kind].typical / BOUNDS[near].typical) ** 2

    def _correction(self, total: float) -> float:
        """Interpolate measured / sum between the two known heights around, in logarithms; beyond, the last one."""
        if not self.known:
            return 1.0
        below = [pair for pair in self.known if pair[0] <= total]
        above = [pair for pair in self.known if pair[0] > total]
        if not below or not above:
            foretold, measured = (below or above[:1])[-1]
            return measured / foretold
        (first, at_first), (second, at_second) = below[-1], above[0]
        part = (math.log(total) - math.log(first)) / (math.log(second) - math.log(first))
        return math.exp((1 - part) * math.log(at_first / first) + part * math.log(at_second / second))


def corrected(costs: Costs, uniform: Sequence[tuple[Types, float]], inputs: Costs) -> Prediction:
    """Make a prediction from costs and what was measured with all tensors in one type each."""
    pairs: Mapping[float, float] = {}
    plain = Prediction(costs, ())
    pairs = {plain.of({**_own(costs), **types}): kld for types, kld in uniform if kld > 0}
    known = tuple(sorted((total, kld) for total, kld in pairs.items() if total > 0))
    return Prediction(costs, known, inputs=inputs)


def _own(costs: Costs) -> Types:
    return {name: max(each, key=lambda kind: kind.bits_per_weight) for name, each in costs.items()}
