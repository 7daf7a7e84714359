"""Floats of four and eight bits with scales for few of them: MXFP4 and MXFP8 (a power of two for 32), NVFP4 (16)."""

import math

import numpy as np
from gguf import GGMLQuantizationType

from ggufkit.checkpoints.source_quantization._blocks import mxfp4, nvfp4
from ggufkit.checkpoints.source_quantization._reading import TABLES, Array, read_rows, read_scales, to_float32
from ggufkit.checkpoints.source_quantization._weights import Blocks, DequantizedTensor
from ggufkit.checkpoints.source_quantization.fp8 import to_float32 as fp8_to_float32
from ggufkit.checkpoints.tensors import Shape, StoredTensor
from ggufkit.errors import CheckpointError

# OCP Microscaling Formats 1.0, table 5; the sign is the highest bit.
_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E2M1 = np.array([*_MAGNITUDES, *(-value for value in _MAGNITUDES)], np.float32)
# Both values of a byte as one number of 8 bytes: taking those is several times as fast as taking pairs.
_BYTE_PAIRS = np.stack([E2M1[np.arange(256) & 15], E2M1[np.arange(256) >> 4]], axis=-1).view(np.uint64).reshape(-1)
EXPONENT_TYPES = ("U8", "F8_E8M0")
MX_GROUP, NV_GROUP = 32, 16


def mxfp4_weight(name: str, packed: StoredTensor, scale: StoredTensor, shape: Shape) -> DequantizedTensor:
    """Make a weight, [..., columns], of bytes [..., columns / 2] and exponents [..., columns / 32].

    The even column is in a byte's low half. The bytes of a row may be cut into groups of 16, as gpt-oss has them.

    Raises:
        CheckpointError: the shapes do not fit each other.
    """
    groups = shape[-1] // MX_GROUP
    if shape[-1] % MX_GROUP or scale.shape != (*shape[:-1], groups) or scale.dtype not in EXPONENT_TYPES:
        raise CheckpointError(
            f"tensor {scale.name!r} is {scale.dtype} of shape {scale.shape}, expected exponents (U8) of shape "
            f"{(*shape[:-1], -(-shape[-1] // MX_GROUP))}, one for {MX_GROUP} elements of a weight of {shape}"
        )
    _check_packed(packed, shape)

    def decode(rows: range) -> Array:
        values = _values(packed, rows, MX_GROUP)
        values *= exponents_to_float32(read_exponents(scale, rows)).reshape(-1, 1)
        return values.reshape(len(rows), *shape[1:])

    def encode(rows: range) -> Array:
        exponents = read_exponents(scale, rows).reshape(-1, groups)
        return mxfp4(_codes(packed, rows, shape), exponents).reshape(len(rows), *shape[1:-1], -1)

    kind = GGMLQuantizationType.MXFP4
    return DequantizedTensor(name, shape, (packed, scale), decode, lambda: Blocks(kind, encode), keeps=kind)


def nvfp4_weight(
    name: str,
    packed: StoredTensor,
    scale: StoredTensor,
    shape: Shape,
    *,
    whole: StoredTensor | None,
    divides: bool,
    inputs: StoredTensor | None = None,
) -> DequantizedTensor:
    """Make a weight of E2M1 bytes, E4M3 scales [rows, columns / 16], and one number for the tensor.

    That number divides (compressed-tensors) or multiplies (ModelOpt) the scales; so does that of the activations,
    `inputs`, which a GGUF file may keep.

    Raises:
        CheckpointError: the shapes do not fit each other.
    """
    if whole is None:
        missing = f"{scale.name.removesuffix('_scale')}_{'global_scale' if divides else 'scale_2'}"
        raise CheckpointError(f"tensor {packed.name!r} has no {missing}", hint="a shard may be missing")
    if len(shape) != 2:
        raise CheckpointError(f"tensor {packed.name!r} is a weight of shape {shape}, expected a matrix")
    rows, columns = shape
    if columns % NV_GROUP or scale.shape != (rows, columns // NV_GROUP) or scale.dtype != "F8_E4M3":
        raise CheckpointError(
            f"tensor {scale.name!r} is {scale.dtype} of shape {scale.shape}, expected F8_E4M3 of shape "
            f"{(rows, -(-columns // NV_GROUP))}, one for {NV_GROUP} elements of a weight of {shape}"
        )
    _check_packed(packed, shape)

    def decode(part: range) -> Array:
        scales = read_scales(scale, part)
        factor = np.float32(_single(whole))
        scales = scales / factor if divides else scales * factor
        values = _values(packed, part, NV_GROUP)
        values *= scales.reshape(-1, 1)
        return values.reshape(len(part), columns)

    def encode(part: range) -> Array:
        codes = read_rows(scale, part)
        bad = np.isnan(TABLES["F8_E4M3"][codes]) | (codes > 0x7F)
        if bad.any():  # the block's scale has no sign, and reads 0x7F as zero
            raise CheckpointError(f"tensor {scale.name!r} holds a scale that is NaN or negative")
        return nvfp4(_codes(packed, part, shape), codes)

    kind = GGMLQuantizationType.NVFP4

    def blocks() -> Blocks:
        beside = {
            "scale": _factor(whole, divides),
            **({"input_scale": _factor(inputs, divides)} if inputs is not None else {}),
        }
        return Blocks(kind, encode, beside)

    return DequantizedTensor(name, shape, (packed, scale, whole), decode, blocks, keeps=kind)


def mxfp8_weight(name: str, tensor: StoredTensor, scale: StoredTensor) -> DequantizedTensor:
    """Make a weight of eight-bit floats, [rows, columns], and exponents [rows, columns / 32].

    Raises:
        CheckpointError: the shapes do not fit each other.
    """
    *before, columns = tensor.shape
    if columns % MX_GROUP or scale.shape != (*before, columns // MX_GROUP):
        raise CheckpointError(
            f"tensor {scale.name!r} has shape {scale.shape}, expected {(*before, -(-columns // MX_GROUP))}: "
            f"an exponent for {MX_GROUP} elements"
        )

    def decode(rows: range) -> Array:
        values = fp8_to_float32(read_rows(tensor, rows), tensor.dtype)
        grouped = values.reshape(-1, MX_GROUP)
        grouped *= exponents_to_float32(read_exponents(scale, rows)).reshape(-1, 1)
        return values

    return DequantizedTensor(name, tensor.shape, (tensor, scale), decode)


def read_exponents(tensor: StoredTensor, rows: range) -> Array:
    """Read E8M0 exponents, uint8; all ones would be NaN. Raises CheckpointError."""
    exponents = read_rows(tensor, rows)
    if (exponents == 0xFF).any():
        raise CheckpointError(f"tensor {tensor.name!r} holds an exponent of 255, which is no number")
    return exponents


def exponents_to_float32(exponents: Array) -> Array:
    """Give 2^(e - 127)."""
    return to_float32(exponents, "F8_E8M0")


def _check_packed(packed: StoredTensor, shape: Shape) -> None:
    if packed.dtype not in ("U8", "I8") or math.prod(packed.shape) * 2 != math.prod(shape):
        raise CheckpointError(
            f"tensor {packed.name!r} is {packed.dtype} of shape {packed.shape}, which does not hold a weight of {shape}"
        )


def _values(packed: StoredTensor, rows: range, group: int) -> Array:
    """Decode rows, [groups of these rows, group]."""
    return _BYTE_PAIRS.take(read_rows(packed, rows).view(np.uint8)).reshape(-1, group // 2).view(np.float32)


def _codes(packed: StoredTensor, rows: range, shape: Shape) -> Array:
    """Unpack rows to codes, [rows of the last axis, columns]."""
    raw = read_rows(packed, rows).view(np.uint8).reshape(-1, shape[-1] // 2)
    return np.stack([raw & 15, raw >> 4], axis=-1).reshape(-1, shape[-1])


def _single(tensor: StoredTensor) -> float:
    """Read the one number that a tensor holds. Raises CheckpointError."""
    if math.prod(tensor.shape) != 1:
        raise CheckpointError(f"tensor {tensor.name!r} has shape {tensor.shape}, expected one number")
    value = float(read_scales(tensor).reshape(-1)[0])
    if value == 0:
        raise CheckpointError(f"tensor {tensor.name!r} is 0, which no scale can be")
    return value


def _factor(tensor: StoredTensor, divides: bool) -> float:
    return 1 / _single(tensor) if divides else _single(tensor)
