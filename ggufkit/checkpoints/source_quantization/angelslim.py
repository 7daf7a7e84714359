"""AngelSlim's W4A8: two signed integers in a byte, a scale for each group of 128 inputs, activations in FP8.

`qweight` I8 [rows, columns / 2], the even column in the low half; `weight_scale.int4` [rows, columns / 128]. It calls
itself compressed-tensors, naive-quantized. By angelslim 0.3.0 (compressor/quant/core/packing_utils.py:
pack_weight_to_int8; modules/helper_layer.py: QDQModule; core/save.py), of which no code runs such a layer.
"""

from collections.abc import Mapping, MutableMapping

import numpy as np

from ggufkit.checkpoints.source_quantization import fp8
from ggufkit.checkpoints.source_quantization._grouped import grouped_weight
from ggufkit.checkpoints.source_quantization._reading import Array, read_rows
from ggufkit.checkpoints.source_quantization._weights import DequantizedTensor
from ggufkit.checkpoints.tensors import StoredTensor
from ggufkit.errors import CheckpointError

NAME = "AngelSlim's W4A8"
_SCALE = "weight_scale.int4"
_WHY = "the scale of FP8 weights that the integers were made of"
REMARK = (
    "AngelSlim's W4A8 is taken as it is stored: for other models than DeepSeek, version 0.3.0 rounds with absmax / 7 "
    "and stores absmax / 8, so that weights come out 7/8 as large as they were"
)


def holds(stored: Mapping[str, StoredTensor]) -> bool:
    """Tell whether there are AngelSlim's scales of four-bit weights."""
    return any(name.endswith(f".{_SCALE}") for name in stored)


def weight(module: str, stored: Mapping[str, StoredTensor], dropped: MutableMapping[str, str]) -> DequantizedTensor:
    """Make the weight of a module; its other scales, of activations, go into `dropped`.

    Raises:
        CheckpointError: a part is missing, or does not fit.
    """
    packed, scale = stored[f"{module}.qweight"], stored.get(f"{module}.{_SCALE}")
    if scale is None:
        raise CheckpointError(f"tensor {packed.name!r} has no {module}.{_SCALE}", hint="a shard may be missing")
    if packed.dtype not in ("I8", "U8") or len(packed.shape) != 2:
        raise CheckpointError(
            f"tensor {packed.name!r} is {packed.dtype} of shape {packed.shape}, expected rows of bytes"
        )
    for part, why in (("weight_scale", _WHY), ("input_scale", fp8.WHY_DROPPED)):
        if f"{module}.{part}" in stored:
            dropped[f"{module}.{part}"] = why
    shape = (packed.shape[0], 2 * packed.shape[1])

    def codes(rows: range) -> Array:
        held = read_rows(packed, rows).view(np.int8)
        return np.stack([(held << 4) >> 4, held >> 4], axis=-1).reshape(len(rows), -1)

    return grouped_weight(f"{module}.weight", shape, codes, scale, bits=4, parts=(packed, scale))
