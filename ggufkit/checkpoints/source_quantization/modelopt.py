"""NVIDIA ModelOpt: NVFP4 and FP8, also side by side; `hf_quant_config.json` says so where config.json does not.

NVFP4 is `weight` U8 [rows, columns / 2], `weight_scale` F8_E4M3 [rows, columns / 16] and one `weight_scale_2`, by which
the scales are multiplied (modelopt, torch/export/quant_utils.py); FP8 is as in fp8.py.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ggufkit.checkpoints.config import read_json_object
from ggufkit.checkpoints.source_quantization import fp8
from ggufkit.checkpoints.source_quantization._micro_floats import EXPONENT_TYPES, mxfp8_weight, nvfp4_weight
from ggufkit.checkpoints.source_quantization._weights import DequantizedTensor, Scheme, Undone
from ggufkit.checkpoints.tensors import StoredTensor
from ggufkit.errors import CheckpointError


def holds(stored: Mapping[str, StoredTensor]) -> bool:
    """Tell whether there are two-level scales, or eight-bit floats, which ModelOpt writes as others do."""
    return any(name.endswith(".weight_scale_2") for name in stored) or fp8.holds(stored)


def undo(config: Mapping[str, Any], stored: Mapping[str, StoredTensor]) -> Undone:
    """Make the weight of every module that has a `weight_scale`.

    Raises:
        CheckpointError: a part is missing or does not fit, or it is another of ModelOpt's formats.
    """
    weights, kinds = [], Counter[str]()
    for name, tensor in stored.items():
        if name.endswith("pre_quant_scale"):
            algorithm = config.get("quant_algo", "AWQ")
            raise CheckpointError(f"ModelOpt's {algorithm} is not known: tensor {name!r} scales activations")
        if name.endswith(".weight") and tensor.dtype in ("U8", "I8", *fp8.FP8):
            weight, kind = _weight(name, tensor, stored)
            weights.append(weight)
            kinds[kind] += 1
    consumed = {part.name for weight in weights for part in weight.parts}
    left = [name for name in stored if name.endswith((".weight_scale", ".weight_scale_2")) and name not in consumed]
    if left:
        raise CheckpointError(f"tensor {left[0]!r} belongs to no weight", hint="a shard may be missing")
    dropped = {name: fp8.WHY_DROPPED for name in stored if fp8.is_activation_scale(name)}
    counted = [f"{count} {kind}" if len(kinds) > 1 else kind for kind, count in kinds.most_common()]
    return Undone(tuple(weights), dropped, "; ".join(counted))


def read_settings(folder: Path) -> Mapping[str, Any]:
    """Read `hf_quant_config.json` as a config.json with a `quantization_config`; empty when there is no such file.

    Raises:
        CheckpointError: the file is malformed.
    """
    path = folder / "hf_quant_config.json"
    if not path.is_file():
        return {}
    told = read_json_object(path)
    producer, settings = told.get("producer"), told.get("quantization")
    if not isinstance(settings, Mapping):
        raise CheckpointError(f"{path}: quantization is {settings!r}, expected an object")
    name = producer.get("name") if isinstance(producer, Mapping) else None
    return {"quantization_config": {"quant_method": name or "modelopt", **settings}}


def _weight(name: str, tensor: StoredTensor, stored: Mapping[str, StoredTensor]) -> tuple[DequantizedTensor, str]:
    scale = fp8.scale_of(name, stored)
    if scale is None:
        raise CheckpointError(f"tensor {name!r} has no {name}_scale", hint="a shard may be missing")
    if tensor.dtype in fp8.FP8:
        if scale.dtype in EXPONENT_TYPES:
            return mxfp8_weight(name, tensor, scale), "MXFP8"
        return fp8.scaled_weight(tensor, scale, None), f"FP8, {fp8.strategy(tensor, scale, None)[0]}"
    if scale.dtype != "F8_E4M3" or len(tensor.shape) != 2:
        raise CheckpointError(
            f"tensor {name!r} is {tensor.dtype} of shape {tensor.shape} with scales of {scale.dtype}, which is no NVFP4"
        )
    whole, inputs = stored.get(f"{name}_scale_2"), stored.get(f"{name.removesuffix('weight')}input_scale")
    shape = (tensor.shape[0], 2 * tensor.shape[1])
    return nvfp4_weight(name, tensor, scale, shape, whole=whole, divides=False, inputs=inputs), "NVFP4"


SCHEME = Scheme("ModelOpt", ("modelopt", "modelopt_fp4", "nvfp4"), holds, undo)
