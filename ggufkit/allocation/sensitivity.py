"""How much each tensor matters, and what each type would cost it: from measured probes, row errors and the type curve.

The divergence of a model whose tensors have the types q_t is taken to be the sum of d_t(q_t) (the linearity theorem of
HIGGS, arXiv 2411.17525), with d_t(q) = s_t * ratio_t(q): s_t is what was measured when tensor t alone had its
reference type, and ratio_t(q) how much better or worse type q is for it. The row error and the model's curve of types
each see what the other misses, so the larger of both ratios counts.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ggufkit.allocation.choices import Choices
from ggufkit.allocation.lattices import is_kept
from ggufkit.allocation.probes import Group, kind_of, reference_of
from ggufkit.allocation.row_errors import Errors
from ggufkit.gguf_file.tensor_types import TensorType

Curve = Mapping[TensorType, float]
"""The divergence of the whole model with every tensor in one type, in nats."""

Costs = Mapping[str, Mapping[TensorType, float]]
"""The divergence that each tensor adds in each type, in nats."""

# Per weight, relative to the mean of all: measured tensor by tensor on a model of 4 B parameters with tied embeddings
# (the table that GGUF-Tool-Suite publishes for Qwen3-4B-Instruct-2507). For those who measure no probes.
PRIORS = {
    "token_embd.weight": 5.1,
    "output.weight": 3.0,
    "attn_v.weight": 2.3,
    "attn_k.weight": 2.0,
    "attn_qkv.weight": 1.2,
    "attn_output.weight": 0.56,
    "ffn_down.weight": 0.54,
    "ffn_up.weight": 0.49,
    "attn_q.weight": 0.41,
    "ffn_gate.weight": 0.38,
}
_NEVER_BELOW = 1e-9  # of the largest: a tensor that seems not to matter at all still gets its bytes by error


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What a tensor costs (nats) in the type that it was measured in."""

    cost: float
    reference: TensorType


Ratio = Callable[[Choices, TensorType, TensorType], float]
"""How much worse the first type is than the second for a tensor."""


def from_probes(
    groups: Sequence[Group], measured: Sequence[float], choices: Sequence[Choices], floor: float
) -> Mapping[str, Sensitivity]:
    """Share what was measured of each group among its tensors, by their numbers of weights; `floor` is subtracted."""
    weights = {choice.name: choice.weights for choice in choices}
    largest = max((kld - floor for kld in measured), default=0.0)
    least = max(largest * _NEVER_BELOW, 1e-12)
    found: dict[str, Sensitivity] = {}
    for group, kld in zip(groups, measured, strict=True):
        total = sum(weights[name] for name in group.types)
        for name, kind in group.types.items():
            found[name] = Sensitivity(max(least, kld - floor) * weights[name] / total, kind)
    return found


def from_priors(choices: Sequence[Choices], errors: Errors, curve: Curve, *, tied: bool) -> Mapping[str, Sensitivity]:
    """Guess from what tensors of their kind cost elsewhere, in proportion to weights and relative error."""
    found = {}
    movable = [choice for choice in choices if len(choice.types) > 1]
    shares = {}
    for choice in movable:
        prior = PRIORS.get(kind_of(choice.name).replace("_exps", ""), 1.0)
        if choice.name == "token_embd.weight" and not tied:
            prior = 0.5  # rows are looked up, nothing is multiplied
        reference = reference_of(choice)
        shares[choice.name] = prior * choice.weights * errors[choice.name][reference]
    whole = sum(shares.values())
    level = curve.get(TensorType.Q3_K) or next(iter(curve.values()), 1.0)
    for choice in movable:
        found[choice.name] = Sensitivity(level * shares[choice.name] / whole if whole else 0.0, reference_of(choice))
    return found


def error_ratio(errors: Errors) -> Ratio:
    """Compare types by their row errors."""

    def ratio(choice: Choices, kind: TensorType, reference: TensorType) -> float:
        found = errors[choice.name]
        return found[kind] / found[reference] if found[reference] > 0 else 0.0

    return ratio


def curve_ratio(curve: Curve) -> Ratio:
    """Compare types by what they do to the whole model."""

    def ratio(choice: Choices, kind: TensorType, reference: TensorType) -> float:
        if kind is choice.types[-1]:
            return 0.0
        return curve[kind] / curve[reference] if curve[reference] > 0 else 0.0

    return ratio


def but_for_lattices(way: Ratio, errors: Errors) -> Ratio:
    """Let the errors alone speak for types that keep a tensor's lattice: the curve is that of other tensors."""
    own = error_ratio(errors)

    def ratio(choice: Choices, kind: TensorType, reference: TensorType) -> float:
        found = errors[choice.name]
        if is_kept(kind, found[kind], found[reference]):
            return own(choice, kind, reference)
        return way(choice, kind, reference)

    return ratio


def larger_of(first: Ratio, second: Ratio) -> Ratio:
    """Let the worse of two opinions count."""
    return lambda choice, kind, reference: max(first(choice, kind, reference), second(choice, kind, reference))


def mean_of(first: Ratio, second: Ratio) -> Ratio:
    """Take the geometric mean of two opinions."""
    return lambda choice, kind, reference: math.sqrt(first(choice, kind, reference) * second(choice, kind, reference))


def sum_of(first: Costs, second: Costs) -> Costs:
    """Add two kinds of costs; of what the second does not know there are none."""
    return {
        name: {kind: cost + second.get(name, {}).get(kind, 0.0) for kind, cost in own.items()}
        for name, own in first.items()
    }


def times(costs: Costs, shares: Errors) -> Costs:
    """Take these shares of costs; all of those whose share is not told."""
    if not shares:
        return costs
    return {
        name: {kind: cost * shares.get(name, {}).get(kind, 1.0) for kind, cost in own.items()}
        for name, own in costs.items()
    }


def costs_of(choices: Sequence[Choices], sensitivities: Mapping[str, Sensitivity], ratio: Ratio) -> Costs:
    """Compute what each tensor costs in each of its types, in nats; its own type costs nothing."""
    costs: dict[str, dict[TensorType, float]] = {}
    for choice in choices:
        own = sensitivities.get(choice.name)
        costs[choice.name] = {
            kind: 0.0 if own is None or kind is choice.types[-1] else own.cost * ratio(choice, kind, own.reference)
            for kind in choice.types
        }
    return costs
