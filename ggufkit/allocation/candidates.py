"""What may be shipped for a budget: the preset, and what the knapsack picks by several opinions about the types."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ggufkit.allocation.choices import K_QUANTS, Choices, Types
from ggufkit.allocation.knapsack import Picked, solve
from ggufkit.allocation.model import Model
from ggufkit.allocation.prediction import Prediction
from ggufkit.allocation.sensitivity import Costs
from ggufkit.allocation.verification import Candidate
from ggufkit.gguf_file.tensor_types import TensorType

LEAST_SHARE = 0.9955  # of the budget that a file should use


def candidates_for(
    model: Model,
    budget: int,
    opinions: Mapping[str, Costs],
    prediction: Prediction,
    *,
    restricted: bool,
    named: str | None = None,
) -> tuple[Candidate, ...]:
    """List candidates for a budget, each once, among them the preset that was `named`, or the largest that fits.

    Where weights are equalized or scales searched for, it is not the preset as everybody makes it, but its types.

    `opinions` are costs of types, the best trusted first; with `restricted`, that one is also asked about K types only.
    """
    found: list[Candidate] = []
    preset = named or model.largest_preset(budget)
    if preset is not None:
        types = model.preset_types(preset)
        size, foretold = model.presets[preset].bytes_after, prediction.of(types)
        called = f"{preset}, {model.improved_by}" if model.improved_by else preset
        found.append(_candidate(model, called, types, size, foretold, is_preset=not model.improved_by))
    trusted = next(iter(opinions.values()))
    asked: list[tuple[str, Costs, Model]] = [(name, costs, model) for name, costs in opinions.items()]
    if restricted:
        asked.append(("K types", trusted, _restricted(model, K_QUANTS)))
    if preset is not None and (more := _filled_up(model, preset, budget, trusted)) is not None:
        foretold = prediction.of(more)
        found.append(_candidate(model, f"{preset}, filled up", more, model.size_of(more), foretold))
    for name, costs, space in asked:
        picked = pick(space, budget, costs)
        if picked is None:
            continue
        types = space.types_of(picked.options)
        if all(each.types != types for each in found):
            foretold = prediction.of(types)
            found.append(_candidate(model, name, types, model.size_of(types), foretold))
    return tuple(found)


def _candidate(
    model: Model, name: str, types: Types, size: int, foretold: float, *, is_preset: bool = False
) -> Candidate:
    return Candidate(
        name,
        types,
        size,
        foretold,
        foretold,
        is_preset=is_preset,
        equalized=model.equalized,
        scales_searched=model.options.search_scales,
    )


def _filled_up(model: Model, preset: str, budget: int, costs: Costs) -> Types | None:
    """Spend what a preset leaves of the budget, no tensor smaller than there.

    None where that is too little, or where the preset has types beyond the pool.
    """
    types = model.preset_types(preset)
    if any(types[choice.name] not in choice.types for choice in model.choices):
        return None
    above = replace(
        model, choices=tuple(_from(choice, choice.bytes_as(types[choice.name])) for choice in model.choices)
    )
    picked = pick(above, budget, costs)
    found = None if picked is None else above.types_of(picked.options)
    return None if found == types else found


def pick(model: Model, budget: int, costs: Costs) -> Picked | None:
    """Solve for a budget of whole-file bytes."""
    room = budget - model.fixed_bytes
    return solve(model.items(costs), room, least_of(budget) - model.fixed_bytes)


def least_of(budget: int) -> int:
    """Give the bytes that a file should have at least."""
    return int(budget * LEAST_SHARE)


def _restricted(model: Model, kinds: Iterable[TensorType]) -> Model:
    allowed = set(kinds)
    return replace(model, choices=tuple(_only(choice, allowed) for choice in model.choices))


def _only(choice: Choices, allowed: set[TensorType]) -> Choices:
    types = tuple(kind for kind in choice.types[:-1] if kind in allowed)
    return Choices(choice.tensor, (*types, choice.types[-1])) if types else choice


def _from(choice: Choices, size: int) -> Choices:
    return Choices(choice.tensor, tuple(kind for kind in choice.types if choice.bytes_as(kind) >= size))
