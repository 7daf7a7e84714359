"""The model's own curve of types: its divergence when every tensor, or every one of some layers, has the same type."""

from collections.abc import Mapping, Sequence

from ggufkit.allocation.choices import Choices, Types
from ggufkit.allocation.probes import layer_of
from ggufkit.allocation.row_errors import Errors
from ggufkit.allocation.sensitivity import Curve
from ggufkit.gguf_file.tensor_types import TensorType

MOST_WEIGHTS = 300_000_000  # that are stored in a type to measure it: more would only take longer
_CLEARLY = 3.0  # times the floor: what is less says nothing


def curve_types(choices: Sequence[Choices]) -> tuple[TensorType, ...]:
    """List the types that any tensor may have, apart from its own, the smallest first."""
    found = {kind for choice in choices for kind in choice.types[:-1]}
    return tuple(sorted(found, key=lambda kind: (kind.bits_per_weight, int(kind))))


def uniform(choices: Sequence[Choices], kind: TensorType, *, most: int = MOST_WEIGHTS) -> Types:
    """Give all tensors of enough layers one type, or the next larger one that they may have.

    Of a model with more weights than `most`, layers are taken evenly; what is in no layer only where it leaves room.
    """
    movable = [choice for choice in choices if len(choice.types) > 1]
    if sum(choice.weights for choice in movable) > most:
        layers = sorted({layer for choice in movable if (layer := layer_of(choice.name)) is not None})
        inside = sum(choice.weights for choice in movable if layer_of(choice.name) is not None)
        count = max(1, min(len(layers), most * len(layers) // max(1, inside)))
        taken = {layers[number * len(layers) // count] for number in range(count)} if layers else set()
        movable = [choice for choice in movable if layer_of(choice.name) in taken] or movable
    return {choice.name: choice.nearest(kind) for choice in movable}


def curve_of(measured: Mapping[TensorType, float], floor: float, errors: Errors, reference: TensorType) -> Curve:
    """Take the floor off; where little is left, follow the mean row errors from the nearest type that stands out."""
    above = {kind: kld - floor for kind, kld in measured.items()}
    clear = {kind: kld for kind, kld in above.items() if kld > _CLEARLY * floor and kld > 0}
    anchor = reference if reference in clear else next(iter(clear), None)
    if anchor is None:
        return {kind: _mean_error(errors, kind) for kind in measured}
    curve = {}
    for kind in measured:
        if kind in clear:
            curve[kind] = clear[kind]
        else:
            nearest = min(clear, key=lambda other: (abs(other.bits_per_weight - kind.bits_per_weight), int(other)))
            there = _mean_error(errors, nearest)
            curve[kind] = clear[nearest] * (_mean_error(errors, kind) / there if there else 1.0)
    return curve


def _mean_error(errors: Errors, kind: TensorType) -> float:
    found = [each[kind] for each in errors.values() if kind in each]
    return sum(found) / len(found) if found else 0.0
