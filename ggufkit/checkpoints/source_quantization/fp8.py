"""FP8 weights: eight-bit floats with a scale for the tensor, for each output, or for each block (DeepSeek's 128 x 128).

`weight_scale_inv`, `weight_scale` and Mistral's `qscale_weight` all are what the stored weight is multiplied by, in
spite of the first one's name (deepseek-ai/DeepSeek-V3, inference/kernel.py: weight_dequant). Scales of activations
have no place in a GGUF file: llama.cpp quantizes activations by itself, if at all.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ggufkit.checkpoints.source_quantization._reading import FLOATS, TABLES, Array, read_rows, read_scales
from ggufkit.checkpoints.source_quantization._weights import DequantizedTensor, Scheme, Undone
from ggufkit.checkpoints.tensors import StoredTensor
from ggufkit.errors import CheckpointError

FP8 = ("F8_E4M3", "F8_E5M2")
_SCALE_TYPES = (*FLOATS, "F8_E8M0")
ACTIVATION_SCALES = (
    *("input_scale", "activation_scale", "qscale_act", "input_scale_ub", "output_scale"),
    *("k_scale", "v_scale", "q_scale", "kv_scale", "prob_output_scale", "q_output_scale", "k_output_scale"),
)
WHY_DROPPED = "a scale of activations, which llama.cpp works out by itself"
_BLOCK = (128, 128)


def holds(stored: Mapping[str, StoredTensor]) -> bool:
    """Tell whether matrices are stored in eight-bit floats, and none with the two scales of NVFP4."""
    return not any(name.endswith(".weight_scale_2") for name in stored) and any(
        tensor.dtype in FP8 and len(tensor.shape) >= 2 and not name.endswith("_scale")
        for name, tensor in stored.items()
    )


def undo(config: Mapping[str, Any], stored: Mapping[str, StoredTensor]) -> Undone:
    """Pair every eight-bit tensor with its scale.

    Raises:
        CheckpointError: a scale is missing, or its shape does not fit the weight.
    """
    block = block_size(config.get("weight_block_size"))
    weights = []
    for name, tensor in stored.items():
        if tensor.dtype in FP8 and not is_activation_scale(name):
            scale = scale_of(name, stored)
            if scale is None:
                raise CheckpointError(
                    f"tensor {name!r} is {tensor.dtype}, and there is no scale for it ({name}_scale_inv, {name}_scale)",
                    hint="a shard may be missing",
                )
            weights.append(scaled_weight(tensor, scale, block))
    kinds = sorted({strategy(weight.parts[0], weight.parts[1], block)[0] for weight in weights})
    types = sorted({weight.parts[0].dtype.removeprefix("F8_").lower() for weight in weights})
    dropped = {name: WHY_DROPPED for name in stored if is_activation_scale(name)}
    return Undone(tuple(weights), dropped, ", ".join([*kinds, *types]))


def is_activation_scale(name: str) -> bool:
    """Tell whether a tensor is a scale for activations or for the cache of keys and values."""
    return name.rpartition(".")[2] in ACTIVATION_SCALES or name.endswith("_activation_scale")


def scale_of(name: str, stored: Mapping[str, StoredTensor]) -> StoredTensor | None:
    """Find the scale of the weight of this name, by any of the names that it goes by."""
    names = [f"{name}_scale_inv", f"{name}_scale"]
    if name.endswith(".weight"):
        names += [name.removesuffix("weight") + other for other in ("qscale_weight", "scale_weight", "scale")]
    return next((stored[other] for other in names if other in stored), None)


def block_size(value: Any, key: str = "weight_block_size") -> tuple[int, int] | None:
    """Read how many rows and columns share a scale. Raises CheckpointError when it is something else."""
    if value is None:
        return None
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in value)
    ):
        raise CheckpointError(f"quantization_config: {key} is {value!r}, expected two positive integers")
    return value[0], value[1]


def scaled_weight(
    tensor: StoredTensor, scale: StoredTensor, block: tuple[int, int] | None, *, name: str | None = None
) -> DequantizedTensor:
    """Make the weight of a tensor of eight bits (a float or an integer) and its scale, whatever the scale is for.

    Raises:
        CheckpointError: the scale's shape does not fit.
    """
    if scale.dtype not in _SCALE_TYPES:
        raise CheckpointError(f"tensor {scale.name!r} is of type {scale.dtype}, which holds no scales")
    _, sizes = strategy(tensor, scale, block)

    def decode(rows: range) -> Array:
        values = to_float32(read_rows(tensor, rows), tensor.dtype)
        if math.prod(scale.shape) == 1:
            return multiplied(values, read_scales(scale).reshape(1, 1), range(1), (2**62, 2**62))
        if len(tensor.shape) == 2:
            needed = range(rows.start // sizes[0], -(-rows.stop // sizes[0]))
            scales = read_scales(scale, needed).reshape(len(needed), -1)
            return multiplied(values, scales, range(rows.start % sizes[0], values.shape[0]), sizes)
        scales = read_scales(scale, rows)
        for expert, matrix in enumerate(values):
            of_expert = scales[expert].reshape(1 if sizes[0] == matrix.shape[0] else scales[expert].shape[0], -1)
            multiplied(matrix, of_expert, range(matrix.shape[0]), sizes)
        return values

    return DequantizedTensor(name or tensor.name, tensor.shape, (tensor, scale), decode)


def strategy(tensor: StoredTensor, scale: StoredTensor, block: tuple[int, int] | None) -> tuple[str, tuple[int, int]]:
    """Say what a scale is for, in words, and how many rows and columns share one: matrices may be stacked.

    Raises:
        CheckpointError: the scale's shape does not fit the weight's.
    """
    *stack, rows, columns = tensor.shape if len(tensor.shape) > 1 else (1, *tensor.shape)
    shape = scale.shape
    if math.prod(shape) == 1:
        return "tensor", (rows, columns)
    own = shape[len(stack) :]
    if list(shape[: len(stack)]) == stack:
        if math.prod(own) == 1:
            return "tensor", (rows, columns)
        if own in ((rows,), (rows, 1)):
            return "channel", (1, columns)
        if stack and not block and own in ((1, columns), (columns, 1)):  # FBGEMM's experts have their outputs last
            return "channel", (rows, 1)
        if len(own) == 2:
            candidates = [block] if block else [_BLOCK, _divided((rows, columns), own)]
            for sizes in candidates:
                if sizes and own == tuple(-(-n // size) for n, size in zip((rows, columns), sizes, strict=True)):
                    return f"block {sizes[0]} x {sizes[1]}" if sizes[0] > 1 else f"group {sizes[1]}", sizes
    expected = f", blocks are {block[0]} x {block[1]} (weight_block_size)" if block else ""
    raise CheckpointError(f"tensor {scale.name!r} has shape {shape}, but the weight has {tensor.shape}{expected}")


def _divided(whole: tuple[int, int], parts: Sequence[int]) -> tuple[int, int] | None:
    if any(part == 0 or n % part for n, part in zip(whole, parts, strict=True)):
        return None
    return whole[0] // parts[0], whole[1] // parts[1]


def multiplied(values: Array, scales: Array, rows: range, sizes: tuple[int, int]) -> Array:
    """Multiply rows x columns by scales, of which each is for `sizes` rows and columns; in place.

    `rows.start` is the place of the first row within the first row of scales.
    """
    columns = values.shape[1]
    wide = scales if scales.shape[1] == 1 else np.repeat(scales, sizes[1], axis=1)[:, :columns]
    if sizes[0] == 1:
        values *= wide
        return values
    row, within = 0, rows.start
    for line in wide:
        count = min(sizes[0] - within, len(values) - row)
        values[row : row + count] *= line
        row, within = row + count, 0
    return values


def to_float32(codes: Array, dtype: str) -> Array:
    """Decode eight-bit floats, or integers, to float32, in the order of their bits: several times as fast as a table.

    The bits of an E4M3 number, moved to their places in a float32, are 2^-120 of its value; E5M2 is half of an F16.
    """
    if dtype == "F8_E4M3":
        if codes.size and int((codes & 0x7F).max()) == 0x7F:
            return TABLES[dtype][codes]  # there is a NaN, which someone will report
        bits = codes.view(np.int8).astype(np.int32)
        bits <<= 20
        bits &= np.int32(-0x78100000)  # 0x87F00000: sign, exponent, mantissa
        values: Array = bits.view(np.float32)
        values *= np.float32(2.0**120)
        return values
    if dtype == "F8_E5M2":
        return (codes.astype(np.uint16) << 8).view(np.float16).astype(np.float32)
    return codes.astype(np.float32)


SCHEME = Scheme("FP8", ("fp8", "fbgemm_fp8", "finegrained_fp8"), holds, undo)
