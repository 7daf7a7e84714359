"""torchao's int8 weights, one scale for each output or for each group of inputs, as its safetensors support lays them.

A weight `x.weight` lies flattened in `x._weight_qdata` int8 [outputs, inputs], `x._weight_scale` [outputs, groups] and
`x._weight_zero_point` where there are any that count (torchao, prototype/safetensors). A `.bin` of before that pickles
tensors of torchao's own classes; `torch_bin` gives the same names to their parts.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ggufkit.checkpoints.source_quantization._grouped import grouped_weight
from ggufkit.checkpoints.source_quantization._reading import Array, read_all, read_rows, require_shape
from ggufkit.checkpoints.source_quantization._weights import Blocks, DequantizedTensor, Scheme, Undone
from ggufkit.checkpoints.tensors import StoredTensor
from ggufkit.errors import CheckpointError

_DATA, _SCALE, _ZERO = "qdata", "scale", "zero_point"
_ACTIVATIONS = ("act_scale", "act_quant_scale", "act_pre_scale", "act_zero_point")
_WHY_DROPPED = "a scale of activations, which llama.cpp works out by itself"


def holds(stored: Mapping[str, StoredTensor]) -> bool:
    """Tell whether weights lie flattened as torchao does it."""
    return any(_stem(name) is not None for name in stored)


def undo(config: Mapping[str, Any], stored: Mapping[str, StoredTensor]) -> Undone:
    """Make a weight of every tensor of int8 and its scales.

    Raises:
        CheckpointError: a part is missing or does not fit; the integers are of another type than int8, or the config's.
    """
    said = str(config.get("quant_type") or "").lower()
    if "int4" in said and "int8" not in said:
        raise CheckpointError(
            "quantization_config says int4 (quant_type), but the tensors are int8",
            hint="config.json belongs to another checkpoint",
        )
    weights = [_weight(tensor, stem, stored) for name, tensor in stored.items() if (stem := _stem(name)) is not None]
    grouped = any(math.prod(weight.parts[1].shape) > weight.shape[0] for weight in weights)
    dropped = {name: _WHY_DROPPED for name in stored if name.endswith(_ACTIVATIONS)}
    return Undone(tuple(weights), dropped, "int8 in groups" if grouped else "int8, a scale per output")


def _stem(name: str) -> str | None:
    """Give what the names of a weight's parts begin with."""
    stem = name.removesuffix(_DATA)
    return stem if stem != name and stem.rpartition(".")[2].startswith("_") and stem.endswith("_") else None


def _weight(data: StoredTensor, stem: str, stored: Mapping[str, StoredTensor]) -> DequantizedTensor:
    module, _, part = stem.rpartition(".")
    name = f"{module}.{part.strip('_')}"
    if data.dtype != "I8" or len(data.shape) != 2:
        raise CheckpointError(
            f"tensor {data.name!r} is {data.dtype} {data.shape}; of torchao's layouts only int8 matrices are known",
            hint="save the model again with Int8WeightOnlyConfig, or plain (dequantized)",
        )
    scale, zero = stored.get(stem + _SCALE), stored.get(stem + _ZERO)
    if scale is None:
        raise CheckpointError(
            f"tensor {stem + _SCALE!r} is missing, the scales of {name!r}", hint="a shard may be missing"
        )
    parts = (data, scale, *((zero,) if zero is not None else ()))
    make = partial(grouped_weight, name, data.shape, partial(read_rows, data), scale, bits=8, parts=parts)
    if zero is None:
        return make()
    require_shape(zero, scale.shape, "a zero point for each scale")
    symmetric = make()

    def zeros(rows: range) -> Array:
        found = read_all(zero) if math.prod(zero.shape) == 1 else read_rows(zero, rows)
        return np.broadcast_to(found.reshape(-1, math.prod(zero.shape[1:])), (len(rows), math.prod(zero.shape[1:])))

    def blocks() -> Blocks | None:  # they are stored even where all are zero
        return None if read_all(zero).any() else symmetric.blocks()

    return replace(make(zeros=zeros), blocks=blocks)


SCHEME = Scheme("torchao", ("torchao",), holds, undo)
