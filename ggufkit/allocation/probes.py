"""Which tensors are measured together: each for itself where they are few, else some layers of one kind at a time."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ggufkit.allocation.choices import Choices, Types
from ggufkit.gguf_file.tensor_types import TensorType

FEW = 64  # tensors: as many are measured one by one
LAYERS_TOGETHER = 4
_BLOCK = re.compile(r"^blk\.(\d+)\.(.+)$")
_T = TensorType
# What a tensor is stored as while its weight is measured: coarse enough to be seen above the floor.
REFERENCES = (_T.Q3_K, _T.IQ4_NL, _T.Q4_1, _T.Q5_0)
COARSER = (_T.Q2_K, _T.IQ3_XXS, _T.IQ4_NL)


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors that are overwritten together; `types` are what they are stored as meanwhile."""

    name: str
    types: Types


def kind_of(name: str) -> str:
    """Return what a tensor does, whatever its layer: `attn_v.weight` for `blk.3.attn_v.weight`."""
    found = _BLOCK.match(name)
    return found[2] if found else name


def layer_of(name: str) -> int | None:
    """Return the number of a tensor's block, None where it is in none."""
    found = _BLOCK.match(name)
    return int(found[1]) if found else None


def reference_of(choice: Choices, wanted: Sequence[TensorType] = REFERENCES) -> TensorType:
    """Choose the type that a tensor is measured in."""
    return next((kind for kind in wanted if kind in choice.types), choice.types[0])


def groups_of(choices: Sequence[Choices], *, one_by_one: bool) -> tuple[Group, ...]:
    """Put tensors into groups: `LAYERS_TOGETHER` layers of one kind; what is in no layer stands alone."""
    movable = [choice for choice in choices if len(choice.types) > 1]
    if one_by_one or len(movable) <= FEW:
        return tuple(Group(choice.name, {choice.name: reference_of(choice)}) for choice in movable)
    members: dict[tuple[str, int], dict[str, TensorType]] = {}
    ranks = _ranks(movable)
    for choice in movable:
        layer = layer_of(choice.name)
        key = (choice.name, 0) if layer is None else (kind_of(choice.name), ranks[choice.name] // LAYERS_TOGETHER)
        members.setdefault(key, {})[choice.name] = reference_of(choice)
    return tuple(
        Group(f"{kind}/{number}" if len(types) > 1 else next(iter(types)), types)
        for (kind, number), types in members.items()
    )


def _ranks(choices: Sequence[Choices]) -> Mapping[str, int]:
    """Count each kind's layers by themselves: hybrid models have some kinds in every fourth layer only."""
    layers: dict[str, list[tuple[int, str]]] = {}
    for choice in choices:
        if (layer := layer_of(choice.name)) is not None:
            layers.setdefault(kind_of(choice.name), []).append((layer, choice.name))
    return {name: rank for found in layers.values() for rank, (_, name) in enumerate(sorted(found))}
