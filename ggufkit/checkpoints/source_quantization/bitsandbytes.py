"""bitsandbytes: LLM.int8() with a scale for each output; NF4 and FP4, codes into a table, with a scale for each block.

int8: `weight` int8 [outputs, inputs] and its `SCB` float32 [outputs], the largest magnitude of each row, so that the
weight is code * SCB / 127 (bitsandbytes, functional.py: int8_vectorwise_dequant). 4 bits: `weight` holds two codes in a
byte, the first in the high half, in an element type that means nothing; `.absmax` has the scale of each block of codes,
`.quant_map` their values, `.quant_state.bitsandbytes__nf4` the shape and the block's size as JSON. With double
quantization `.absmax` are codes themselves, into `.nested_quant_map` (functional.py: QuantState, dequantize_4bit).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ggufkit.checkpoints.source_quantization._grouped import grouped_weight
from ggufkit.checkpoints.source_quantization._reading import Array, read_all, read_rows, read_scales, require_shape
from ggufkit.checkpoints.source_quantization._scaled import Scaled
from ggufkit.checkpoints.source_quantization._weights import DequantizedTensor, Scheme, Undone
from ggufkit.checkpoints.tensors import Shape, StoredTensor
from ggufkit.errors import CheckpointError

_STATE = ".quant_state.bitsandbytes__"
_TO_UNIT = np.float32(1 / 127)
_AGAIN = "the checkpoint is damaged or incomplete: download it again"


def holds(stored: Mapping[str, StoredTensor]) -> bool:
    """Tell whether a weight has the parts that only this library writes."""
    return any(_STATE in name or name.endswith((".SCB", ".weight_format", ".quant_map")) for name in stored)


def undo(config: Mapping[str, Any], stored: Mapping[str, StoredTensor]) -> Undone:
    """Make a weight of every tensor of integers; the description of a 4-bit one is read, which tells its shape.

    Raises:
        CheckpointError: a part is missing or does not fit; the config says other bits than the tensors have.
    """
    weights, kinds = [], set()
    for name, tensor in stored.items():
        module = name.removesuffix(".weight")
        if described := next(
            (other for other in (f"{name}{_STATE}nf4", f"{name}{_STATE}fp4") if other in stored), None
        ):
            weight, kind = _four_bits(tensor, stored[described], stored)
        elif tensor.dtype == "I8" and name.endswith(".weight"):
            weight, kind = _int8(tensor, _part(stored, f"{module}.SCB", name)), "int8"
        elif name.endswith(".weight") and f"{name}.absmax" in stored:
            raise CheckpointError(f"tensor {name}{_STATE}nf4 or …fp4 is missing, which tells the shape", hint=_AGAIN)
        else:
            continue
        weights.append(weight)
        kinds.add(kind)
    said = next((key for key in ("load_in_4bit", "load_in_8bit") if config.get(key)), None)
    if said and kinds and (said == "load_in_8bit") != ("int8" in kinds):
        raise CheckpointError(
            f"quantization_config says {said}, but the tensors are {' and '.join(sorted(kinds))}",
            hint="config.json belongs to another checkpoint",
        )
    told = {name: "says that int8 lies row by row" for name, tensor in stored.items() if _is_row_format(name, tensor)}
    return Undone(tuple(weights), told, " and ".join(sorted(kinds)))


def _is_row_format(name: str, tensor: StoredTensor) -> bool:
    """Tell whether this says in what order int8 lies. Raises CheckpointError when it is a GPU's (col_turing, ...)."""
    if not name.endswith(".weight_format"):
        return False
    if tensor.dtype == "U8" and read_all(tensor).any():  # bitsandbytes, nn/modules.py: 0 is "row"
        raise CheckpointError(
            f"tensor {name!r} says that the weights lie in an order of one kind of GPU",
            hint="save the checkpoint again with bitsandbytes 0.45 or later",
        )
    return True


def _part(stored: Mapping[str, StoredTensor], name: str, of: str) -> StoredTensor:
    if name not in stored:
        raise CheckpointError(f"tensor {name!r} is missing, the scales of {of!r}", hint="a shard may be missing")
    return stored[name]


def _int8(tensor: StoredTensor, scb: StoredTensor) -> DequantizedTensor:
    if len(tensor.shape) != 2:
        raise CheckpointError(f"tensor {tensor.name!r} has shape {tensor.shape}, expected a matrix")
    require_shape(scb, tensor.shape[:1], f"a scale for each of {tensor.shape[0]} outputs")

    def codes(rows: range) -> Array:
        return read_rows(tensor, rows)

    def decode(rows: range) -> Array:  # in the library's order, which rounds twice
        return codes(rows).astype(np.float32) * read_scales(scb, rows)[:, None] * _TO_UNIT

    weight = grouped_weight(tensor.name, tensor.shape, codes, Scaled(scb, _TO_UNIT), bits=8, parts=(tensor, scb))
    return replace(weight, decode=decode)


@dataclass(frozen=True, slots=True)
class _Description:
    """What `quant_state` says: the shape, how many codes share a scale, and the same of the scales' own codes."""

    kind: str
    shape: Shape
    block: int
    nested_block: int
    nested_offset: float

    @property
    def count(self) -> int:
        return math.prod(self.shape)


def _four_bits(
    tensor: StoredTensor, described: StoredTensor, stored: Mapping[str, StoredTensor]
) -> tuple[DequantizedTensor, str]:
    name = tensor.name
    told = _describe(described)
    absmax, values = _part(stored, f"{name}.absmax", name), _part(stored, f"{name}.quant_map", name)
    if tensor.size != -(-told.count // 2):
        raise CheckpointError(
            f"tensor {name!r} holds {tensor.size} bytes, but its shape {told.shape} needs {-(-told.count // 2)}",
            hint=_AGAIN,
        )
    blocks = -(-told.count // told.block)
    require_shape(absmax, (blocks,), f"blocks of {told.block} of {told.count} weights")
    require_shape(values, (16,), "a value for each code of 4 bits")
    nested: tuple[StoredTensor, ...] = ()
    if absmax.dtype == "U8":
        nested = (_part(stored, f"{name}.nested_absmax", name), _part(stored, f"{name}.nested_quant_map", name))
        require_shape(
            nested[0], (-(-blocks // told.nested_block),), f"blocks of {told.nested_block} of {blocks} scales"
        )
        require_shape(nested[1], (256,), "a value for each code of 8 bits")

    def decode(rows: range) -> Array:
        width = math.prod(told.shape[1:])
        span = range(rows.start * width, rows.stop * width)
        decoded = read_scales(values)[_codes(tensor, span)]
        decoded *= _of_blocks(_scales(absmax, nested, told, span), span, told.block)
        return decoded.reshape(len(rows), *told.shape[1:])

    weight = DequantizedTensor(name, told.shape, (tensor, absmax, values, *nested, described), decode)
    return weight, f"{told.kind} with double quantization" if nested else told.kind


def _describe(described: StoredTensor) -> _Description:
    raw = bytearray(described.size)
    described.read_into(memoryview(raw))
    try:
        told = json.loads(raw.decode())
        shape = tuple(int(size) for size in told["shape"])
        nested = int(told.get("nested_blocksize") or 256), float(told.get("nested_offset") or 0.0)
        found = _Description(str(told["quant_type"]), shape, int(told["blocksize"]), *nested)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"tensor {described.name!r} is no description of 4-bit weights: {error}", hint=_AGAIN
        ) from None
    if not shape or min(*shape, found.block, found.nested_block) <= 0 or not math.isfinite(found.nested_offset):
        raise CheckpointError(f"tensor {described.name!r} describes what cannot be: {told}", hint=_AGAIN)
    return found


def _codes(tensor: StoredTensor, span: range) -> Array:
    """Read codes, two of a byte, the first in its high half: uint8 [len(span)]."""
    first = span.start // 2
    packed = np.empty(-(-span.stop // 2) - first, np.uint8)
    tensor.read_into(packed.data, first)
    codes = np.empty((len(packed), 2), np.uint8)
    codes[:, 0], codes[:, 1] = packed >> 4, packed & 15
    return codes.reshape(-1)[span.start - 2 * first :][: len(span)]


def _scales(absmax: StoredTensor, nested: tuple[StoredTensor, ...], told: _Description, span: range) -> Array:
    """Read the scales of the blocks that a span touches."""
    blocks = range(span.start // told.block, -(-span.stop // told.block))
    if not nested:
        return read_scales(absmax, blocks)
    scales = read_scales(nested[1])[read_rows(absmax, blocks)]
    outer = range(blocks.start // told.nested_block, -(-blocks.stop // told.nested_block))
    scales *= _of_blocks(read_scales(nested[0], outer), blocks, told.nested_block)
    scales += np.float32(told.nested_offset)
    return scales


def _of_blocks(values: Array, span: range, block: int) -> Array:
    """Give each of a span the value of its block; `values` begin with the block that the span begins in."""
    return np.repeat(values, block)[span.start % block :][: len(span)]


SCHEME = Scheme("bitsandbytes", ("bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit"), holds, undo)
