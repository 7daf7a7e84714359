"""HQQ: integers of 1, 2, 3, 4 or 8 bits in planes, with a scale and a fractional zero point for each group.

The weight, flattened row by row, is cut in groups of neighbours (axis 1), or dealt out to as many groups as there are
scales (axis 0). `W_q` holds the codes in planes: the first part of the weight in the highest bits (hqq,
core/bitpack.py). The weight is (code - zero) * scale. What a layer says of itself lies beside it, as tensors.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ggufkit.checkpoints.source_quantization._blocks import integer_blocks
from ggufkit.checkpoints.source_quantization._modules import Module, modules
from ggufkit.checkpoints.source_quantization._packed import read_planes
from ggufkit.checkpoints.source_quantization._reading import FLOATS, Array, read_all, read_scales
from ggufkit.checkpoints.source_quantization._weights import Blocks, DequantizedTensor, Scheme, Undone
from ggufkit.checkpoints.tensors import StoredTensor
from ggufkit.errors import CheckpointError

_PLANES = {  # packing -> type of the items, bits, and how far each plane is shifted
    "8bit_u8": ("u1", 8, (0,)),
    "4bit_u8": ("u1", 4, (4, 0)),
    "2bit_u8": ("u1", 2, (6, 4, 2, 0)),
    "1bit_u8": ("u1", 1, (7, 6, 5, 4, 3, 2, 1, 0)),
    "3bit_32": ("<i4", 3, tuple(range(27, -1, -3))),
}


def holds(stored: Mapping[str, StoredTensor]) -> bool:
    """Tell whether modules hold codes under HQQ's name."""
    return any(name.endswith(".W_q") for name in stored)


def undo(config: Mapping[str, Any], stored: Mapping[str, StoredTensor]) -> Undone:
    """Make a weight of every module, of which what it says of itself is a part; its shape is read there.

    Raises:
        CheckpointError: a part is missing or does not fit; scales are quantized themselves; other bits than configured.
    """
    weights, kinds = [], set()
    for module in _all(stored):
        weight, bits, group = _weight(module, config)
        weights.append(weight)
        kinds.add(f"{bits} bits, groups of {group}")
    return Undone(tuple(weights), {}, "; ".join(sorted(kinds)))


def _all(stored: Mapping[str, StoredTensor]) -> list[Module]:
    types = {tensor.dtype for name, tensor in stored.items() if name.endswith(".W_q")}
    return [module for dtype in sorted(types) for module in modules(stored, "W_q", dtype)]


def _weight(module: Module, config: Mapping[str, Any]) -> tuple[DequantizedTensor, int, int]:
    data, scale, zero = module["W_q"], module["scale"], module["zero"]
    packing, axis = _text(module["packing"]), _number(module["axis"])
    shape = tuple(int(size) for size in _integers(module["shape"]))
    if packing not in _PLANES or axis not in (0, 1) or len(shape) != 2 or min(shape) <= 0:
        raise CheckpointError(f"{module.name}: packing {packing!r} of {shape} along axis {axis} is not known")
    if scale.dtype not in FLOATS or zero.dtype not in FLOATS:
        raise CheckpointError(f"{module.name}: scale or zero is quantized itself, which is not known")
    item, bits, shifts = _PLANES[packing]
    told = [_number(module["nbits"])] if "nbits" in module.parts else []
    if said := next((other for other in (*told, _said_bits(config)) if other not in (bits, None)), None):
        raise CheckpointError(
            f"{module.name}: the codes are of {bits} bits ({packing}), but nbits is {said}",
            hint="config.json belongs to another checkpoint, or a file is damaged",
        )
    count, groups = math.prod(shape), math.prod(scale.shape)
    group = _number(module["group_size"]) if "group_size" in module.parts else count // max(1, groups)
    if group <= 0 or count % group or groups != count // group or zero.shape != scale.shape:
        raise CheckpointError(
            f"{module.name}: scales {scale.shape} and zeros {zero.shape} do not fit groups of {group} in {shape}"
        )
    width = group if axis == 1 else groups
    rows = -(-(count // width) // len(shifts))
    if data.size != rows * width * np.dtype(item).itemsize:
        raise CheckpointError(f"tensor {data.name!r} holds {data.size} bytes, which does not fit {packing} of {shape}")

    def codes(part: range) -> Array:
        span = range(part.start * shape[1], part.stop * shape[1])
        return read_planes(data, span, item, bits, shifts).reshape(len(part), shape[1])

    def spread(tensor: StoredTensor, part: range) -> Array:
        span = range(part.start * shape[1], part.stop * shape[1])
        if axis == 0:
            return read_scales(tensor).reshape(-1)[np.arange(span.start, span.stop) % groups].reshape(-1, shape[1])
        touched = range(span.start // group, -(-span.stop // group))
        values = np.repeat(read_scales(tensor, touched).reshape(-1), group)
        return values[span.start % group :][: len(span)].reshape(-1, shape[1])

    def decode(part: range) -> Array:
        values = codes(part).astype(np.float32)
        values -= spread(zero, part)
        values *= spread(scale, part)
        return values

    def blocks() -> Blocks | None:
        if axis == 0 or shape[1] % group:
            return None
        per_row = shape[1] // group

        def of_groups(tensor: StoredTensor, part: range) -> Array:
            touched = range(part.start * per_row, part.stop * per_row)
            return read_scales(tensor, touched).reshape(len(part), per_row)

        return integer_blocks(
            (shape[0], shape[1]),
            group,
            bits,
            codes=codes,
            scales=lambda part: of_groups(scale, part),
            zeros=lambda part: of_groups(zero, part),
        )

    beside = (part for kind, part in module.parts.items() if kind not in ("W_q", "bias"))
    parts = (data, *beside)
    return DequantizedTensor(f"{module.name}.weight", shape, parts, decode, blocks), bits, group


def _said_bits(config: Mapping[str, Any]) -> int | None:
    """Read the bits that the config says of all modules; None where it says them of each."""
    settings: Any = config.get("quant_config")
    for key in ("weight_quant_params", "nbits"):
        settings = settings.get(key) if isinstance(settings, Mapping) else None
    return settings if isinstance(settings, int) else None


def _number(tensor: StoredTensor) -> int:
    found = _integers(tensor)
    if found.size != 1:
        raise CheckpointError(f"tensor {tensor.name!r} is no number")
    return int(found[0])


def _text(tensor: StoredTensor) -> str:
    return "".join(chr(int(code) & 0x7F) for code in _integers(tensor)[:32])


def _integers(tensor: StoredTensor) -> Array:
    found = read_all(tensor).reshape(-1)
    if tensor.dtype in FLOATS or not np.issubdtype(found.dtype, np.integer):
        raise CheckpointError(f"tensor {tensor.name!r} is of type {tensor.dtype}, expected integers")
    return found


SCHEME = Scheme("HQQ", ("hqq",), holds, undo)
