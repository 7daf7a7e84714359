"""Corrections in the mix that was chosen: what a tensor costs there, instead of alone among untouched ones."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ggufkit.allocation.choices import Types
from ggufkit.allocation.sensitivity import Costs, Sensitivity

COUNT = 12  # tensors that seem to cost most
_MOST_CHANGE = 2.0


def to_correct(types: Types, costs: Costs) -> tuple[str, ...]:
    """Choose the tensors whose costs decide most."""
    order = sorted(types, key=lambda name: (-costs[name].get(types[name], 0.0), name))
    return tuple(name for name in order if costs[name].get(types[name], 0.0) > 0)[:COUNT]


def questions(types: Types, names: Sequence[str]) -> list[Types]:
    """Ask for the whole mix, and for the mix with one tensor each left as it is in the source."""
    return [types, *({name: kind for name, kind in types.items() if name != one} for one in names)]


def corrected_sensitivities(
    sensitivities: Mapping[str, Sensitivity],
    types: Types,
    costs: Costs,
    names: Sequence[str],
    measured: Sequence[float],
) -> Mapping[str, Sensitivity]:
    """Scale the sensitivities of `names` by what they cost in the mix against what was foretold of it.

    `measured` are the answers to `questions`. Only proportions count: their common factor is taken out.
    """
    whole, without = measured[0], measured[1:]
    factors = {
        name: max(1e-3, (whole - one) / costs[name][types[name]]) for name, one in zip(names, without, strict=True)
    }
    ordered = sorted(factors.values())
    middle = ordered[len(ordered) // 2] if ordered else 1.0
    changed = dict(sensitivities)
    for name, factor in factors.items():
        change = min(_MOST_CHANGE, max(1 / _MOST_CHANGE, factor / middle))
        changed[name] = replace(changed[name], cost=changed[name].cost * change)
    return changed
