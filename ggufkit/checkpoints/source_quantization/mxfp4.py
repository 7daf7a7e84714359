"""MXFP4 as gpt-oss stores its experts: all of a block in two tensors, with `_blocks` and `_scales` behind their names.

`…_blocks` U8 [experts, outputs, inputs / 32, 16] holds two four-bit floats a byte, the even input in the low half;
`…_scales` U8 [experts, outputs, inputs / 32] the exponents plus 127 (transformers, integrations/mxfp4.py). The weight
comes out with the inputs last, as stored, and not as transformers turns it.
"""

from collections.abc import Mapping
from typing import Any

from ggufkit.checkpoints.source_quantization._micro_floats import MX_GROUP, mxfp4_weight
from ggufkit.checkpoints.source_quantization._weights import Scheme, Undone
from ggufkit.checkpoints.tensors import StoredTensor
from ggufkit.errors import CheckpointError

_BLOCKS, _SCALES = "_blocks", "_scales"


def holds(stored: Mapping[str, StoredTensor]) -> bool:
    """Tell whether there are blocks with scales."""
    return any(
        name.endswith(_BLOCKS) and tensor.dtype == "U8" and name.removesuffix(_BLOCKS) + _SCALES in stored
        for name, tensor in stored.items()
    )


def undo(config: Mapping[str, Any], stored: Mapping[str, StoredTensor]) -> Undone:  # noqa: ARG001 - the signature
    """Pair blocks and scales.

    Raises:
        CheckpointError: one of them is missing, or their shapes do not fit.
    """
    weights = []
    for name, tensor in stored.items():
        if name.endswith(_SCALES) and tensor.dtype == "U8" and name.removesuffix(_SCALES) + _BLOCKS not in stored:
            raise CheckpointError(f"tensor {name!r} has no blocks", hint="a shard may be missing")
        if not name.endswith(_BLOCKS):
            continue
        module = name.removesuffix(_BLOCKS)
        scales = stored.get(module + _SCALES)
        if scales is None:
            raise CheckpointError(f"tensor {name!r} has no {module + _SCALES}", hint="a shard may be missing")
        if len(tensor.shape) < 3 or tensor.shape[-1] != MX_GROUP // 2:
            raise CheckpointError(f"tensor {name!r} has shape {tensor.shape}, expected blocks of {MX_GROUP // 2} bytes")
        weights.append(mxfp4_weight(module, tensor, scales, (*tensor.shape[:-2], tensor.shape[-2] * MX_GROUP)))
    return Undone(tuple(weights))


SCHEME = Scheme("MXFP4", ("mxfp4",), holds, undo)
