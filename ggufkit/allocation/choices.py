"""The types that each tensor of a model may have: those of a pool that its rows and its importance data allow."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ggufkit.errors import UsageError
from ggufkit.gguf_file.reader import TensorInfo
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.quantization.matrix_fit import NEVER_WITHOUT, needs_imatrix
from ggufkit.quantization.output_size import ALIGNMENT
from ggufkit.quantization.types import tensor_type

_T = TensorType

Types: TypeAlias = Mapping[str, TensorType]
"""The type of each tensor that may have another than its own."""

K_QUANTS = (_T.Q2_K, _T.Q3_K, _T.Q4_K, _T.Q5_K, _T.Q6_K, _T.Q8_0)
# Those of blocks of 32 lose more of the weights, and less of what these are multiplied with.
_OF_SMALL_BLOCKS = (_T.IQ4_NL, _T.Q4_1, _T.Q5_0, _T.Q5_1, _T.Q8_0)
USUAL = (_T.Q2_K, _T.IQ3_XXS, _T.Q3_K, _T.IQ3_S, _T.IQ4_XS, _T.Q4_K, _T.Q5_K, _T.Q6_K, *_OF_SMALL_BLOCKS)
# Below these bits per weight of a whole file, the usual ones alone cannot reach far enough down.
_SMALLER = ((3.5, (_T.IQ2_XXS, _T.IQ2_S)), (2.4, (_T.IQ1_S, _T.IQ1_M)))
USUAL_POOL = "usual"
POOLS: Mapping[str, tuple[TensorType, ...]] = {USUAL_POOL: USUAL, "k-quants": K_QUANTS}
_SHORTEST_POOL = 2


@dataclass(frozen=True, slots=True)
class Choices:
    """One tensor and the types that it may have, the smallest first; the last is the one that it has now."""

    tensor: TensorInfo
    types: tuple[TensorType, ...]

    @property
    def name(self) -> str:
        """The tensor's name."""
        return self.tensor.name

    @property
    def weights(self) -> int:
        """The number of weights."""
        return self.tensor.elements

    def bytes_as(self, kind: TensorType) -> int:
        """The bytes that it takes in a file as one type, padding included."""
        size = self.tensor.elements // kind.block_size * kind.block_bytes
        return -(-size // ALIGNMENT) * ALIGNMENT

    def nearest(self, kind: TensorType) -> TensorType:
        """Return that type, or where it may not have it, the next larger one that it may have."""
        if kind in self.types:
            return kind
        larger = [own for own in self.types if own.bits_per_weight >= kind.bits_per_weight]
        return larger[0] if larger else self.types[-1]


def pool_named(name: str, bits_per_weight: float) -> tuple[TensorType, ...]:
    """Return the types of a pool: one of `POOLS`, or a list such as `q3_k,q4_k,q6_k`.

    `bits_per_weight` are those of the smallest file that is wanted: a usual pool gets smaller types where it must.

    Raises:
        UsageError: there is no such type, or there are too few to choose from.
    """
    found = POOLS.get(name.strip().lower())
    if found is not None:
        extra = tuple(kind for below, kinds in _SMALLER if bits_per_weight < below for kind in kinds)
        return found if found is K_QUANTS else (*extra, *found)
    kinds = tuple(dict.fromkeys(tensor_type(word) for word in name.replace(",", " ").split()))
    if len([kind for kind in kinds if kind.is_quantized]) < _SHORTEST_POOL:
        raise UsageError(
            f"the pool {name!r} leaves nothing to choose", hint=f"one of {', '.join(POOLS)}, or at least two types"
        )
    return kinds


def choices_of(
    tensors: Sequence[TensorInfo],
    pool: Sequence[TensorType],
    importance: Mapping[str, int],
    on_lattice: Collection[str] = (),
) -> tuple[Choices, ...]:
    """Say which types each tensor may have.

    `importance` has the number of values of each measured tensor. Those `on_lattice` may have Q4_0 whatever the pool.
    """
    return tuple(
        Choices(tensor, _types(tensor, (*pool, _T.Q4_0) if tensor.name in on_lattice else pool, importance))
        for tensor in tensors
    )


def _types(tensor: TensorInfo, pool: Sequence[TensorType], importance: Mapping[str, int]) -> tuple[TensorType, ...]:
    columns = tensor.shape[0]
    fitting = [kind for kind in pool if kind.is_quantized and columns % kind.block_size == 0]
    if len(fitting) < len([kind for kind in pool if kind.is_quantized]):
        # What llama-quantize falls back to for rows that blocks of 256 do not divide, and their neighbours.
        fitting += [kind for kind in _OF_SMALL_BLOCKS if columns % kind.block_size == 0]
    allowed = {
        kind
        for kind in fitting
        if kind.bits_per_weight < tensor.type.bits_per_weight
        and (tensor.name in importance or not _needs_importance(tensor, kind))
    }
    if tensor.type is TensorType.F32:
        allowed.add(TensorType.F16)  # half the bytes for next to nothing
    return (*sorted(allowed, key=lambda kind: (kind.bits_per_weight, int(kind))), tensor.type)


def _needs_importance(tensor: TensorInfo, kind: TensorType) -> bool:
    return kind in NEVER_WITHOUT or needs_imatrix(tensor.name, tensor.type, kind, "")
