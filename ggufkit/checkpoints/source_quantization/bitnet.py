"""BitNet's ternary weights, four to a byte, and one scale for the matrix.

`weight` uint8 [outputs / 4, inputs]: bits 2i and 2i + 1 of a row of bytes hold row i * outputs / 4 + r, as 0, 1, 2 for
-1, 0, 1. `weight_scale` divides them, or, with the linear class AutoBitLinear, multiplies them
(transformers, integrations/bitnet.py: unpack_weights, BitLinear, AutoBitLinear).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType

from ggufkit.checkpoints.source_quantization._blocks import holds_scales
from ggufkit.checkpoints.source_quantization._grouped import grouped_weight
from ggufkit.checkpoints.source_quantization._packed import read_planes
from ggufkit.checkpoints.source_quantization._reading import Array, read_scales, require_shape
from ggufkit.checkpoints.source_quantization._scaled import Scaled
from ggufkit.checkpoints.source_quantization._weights import Blocks, DequantizedTensor, Scheme, Undone
from ggufkit.checkpoints.tensors import StoredTensor
from ggufkit.errors import CheckpointError

_PER_BYTE, _BITS = 4, 2
_SHIFTS = (0, 2, 4, 6)
_TERNARY_BLOCK = 256


def holds(stored: Mapping[str, StoredTensor]) -> bool:
    """Tell whether matrices of bytes have a single scale."""
    return any(_is_ternary(tensor) and f"{name}_scale" in stored for name, tensor in stored.items())


def undo(config: Mapping[str, Any], stored: Mapping[str, StoredTensor]) -> Undone:
    """Make a weight of every matrix of bytes and its scale.

    Raises:
        CheckpointError: a scale is missing, or is not one number.
    """
    multiplies = str(config.get("linear_class") or "bitlinear").lower() == "autobitlinear"
    weights = []
    for name, tensor in stored.items():
        if _is_ternary(tensor):
            if f"{name}_scale" not in stored:
                raise CheckpointError(f"tensor {f'{name}_scale'!r} is missing", hint="a shard may be missing")
            weights.append(_weight(tensor, stored[f"{name}_scale"], is_divisor=not multiplies))
    return Undone(tuple(weights), {}, "ternary")


def _is_ternary(tensor: StoredTensor) -> bool:
    return tensor.dtype == "U8" and len(tensor.shape) == 2 and tensor.name.endswith(".weight")


def _weight(tensor: StoredTensor, scale: StoredTensor, *, is_divisor: bool) -> DequantizedTensor:
    if scale.shape not in ((), (1,)):
        require_shape(scale, (1,), "one scale for the matrix")
    outputs, inputs = _PER_BYTE * tensor.shape[0], tensor.shape[1]

    def codes(rows: range) -> Array:
        span = range(rows.start * inputs, rows.stop * inputs)
        found = read_planes(tensor, span, "u1", _BITS, _SHIFTS)
        if found.size and int(found.max()) > 2:
            raise CheckpointError(f"tensor {tensor.name!r} holds codes of 3, which no ternary weight has")
        return found.reshape(len(rows), inputs).astype(np.int8) - np.int8(1)

    factor = Scaled(scale, is_reciprocal=is_divisor)
    weight = grouped_weight(tensor.name, (outputs, inputs), codes, factor, bits=_BITS, parts=(tensor, scale))

    def blocks() -> Blocks | None:
        found = read_scales(factor).reshape(())
        if inputs % _TERNARY_BLOCK or not holds_scales(found):
            return weight.blocks()
        return Blocks(GGMLQuantizationType.TQ2_0, lambda rows: _tq2_0(codes(rows), found))

    return replace(weight, blocks=blocks)


def _tq2_0(codes: Array, scale: Array) -> Array:
    """Pack codes as block_tq2_0 (ggml-common.h): of each 128, byte m holds codes m, m + 32, m + 64, m + 96."""
    quarters = (codes + np.int8(1)).view(np.uint8).reshape(len(codes), -1, _TERNARY_BLOCK // 128, _PER_BYTE, 32)
    packed = np.zeros((*quarters.shape[:3], 32), np.uint8)
    for place in range(_PER_BYTE):
        packed |= quarters[..., place, :] << np.uint8(_BITS * place)
    halves = np.broadcast_to(scale.astype("<f2").reshape(1).view(np.uint8), (*packed.shape[:2], 2))
    blocks = np.concatenate([packed.reshape(*packed.shape[:2], -1), halves], axis=-1)
    return blocks.reshape(len(codes), -1)


SCHEME = Scheme("BitNet", ("bitnet",), holds, undo)
