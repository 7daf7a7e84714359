"""compressed-tensors: what llm-compressor (GPTQ, SmoothQuant, plain rounding), AngelSlim and others write.

`quantization_config` has groups of modules, each with arguments for its weights; the stored parts say most of it again.
`weight_packed` holds integers or four-bit floats, `weight` those of eight bits (integers of four as well, W4A8);
`weight_scale`, `weight_zero_point`, `weight_g_idx` and `weight_global_scale` belong to them (compressed-tensors 0.19,
compressors/*/base.py and quantization/lifecycle/forward.py).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ggufkit.checkpoints.name_patterns import matches
from ggufkit.checkpoints.source_quantization import _micro_floats as micro
from ggufkit.checkpoints.source_quantization import angelslim, fp8
from ggufkit.checkpoints.source_quantization._compressed_integers import integer_weight
from ggufkit.checkpoints.source_quantization._reading import FLOATS
from ggufkit.checkpoints.source_quantization._weights import DequantizedTensor, Scheme, Undone
from ggufkit.checkpoints.tensors import StoredTensor
from ggufkit.errors import CheckpointError

FORMATS = (
    *("float-quantized", "int-quantized", "naive-quantized", "pack-quantized", "mixed-precision", "dense"),
    *("mxfp4-pack-quantized", "mxfp8-quantized", "nvfp4-pack-quantized"),
)
_PARTS = ("weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx", "weight_global_scale")
_ACTIVATIONS = (
    *("input_scale", "input_zero_point", "input_global_scale", "output_scale", "output_zero_point"),
    *("k_scale", "v_scale", "q_scale", "k_zero_point", "v_zero_point", "q_zero_point", "k_global_scale"),
    *("v_global_scale", "q_global_scale", "output_global_scale"),
)
_WHY_PLAIN = "beside weights that are stored plain, and taken as they are"
_DECOMPRESS = "save the checkpoint decompressed, with the library that made it"
_ONLINE = {"input", "output", "k_cache", "q_attn"}  # compressed-tensors: transform/transform_args.py


@dataclass(frozen=True, slots=True)
class _Arguments:
    """What the config says of a module's weights; None where it does not."""

    bits: int | None = None
    group: int | None = None
    block: tuple[int, int] | None = None


def holds(stored: Mapping[str, StoredTensor]) -> bool:
    """Tell whether there are packed weights, or weights with a `weight_scale`, plain ones too, or AngelSlim's."""
    return angelslim.holds(stored) or any(
        name.endswith(".weight_packed") or (name.endswith(".weight_scale") and _quantized(name, stored))
        for name in stored
    )


def undo(config: Mapping[str, Any], stored: Mapping[str, StoredTensor]) -> Undone:
    """Make the weight of every module that has quantized parts.

    Raises:
        CheckpointError: the format is not known, a part is missing or does not fit, or the model needs more.
    """
    _refuse(config)
    weights, kinds = [], Counter[str]()
    dropped = {name: fp8.WHY_DROPPED for name in stored if name.rpartition(".")[2] in _ACTIVATIONS}
    for name, tensor in stored.items():
        module, _, part = name.rpartition(".")
        if part == "qweight":
            weights.append(angelslim.weight(module, stored, dropped))
            kinds[angelslim.NAME] += 1
        elif part == "weight" and tensor.dtype in FLOATS:
            dropped |= {name: _WHY_PLAIN for kind in _PARTS if (name := f"{module}.{kind}") in stored}
        elif part == "weight_packed" or (part == "weight" and f"{name}_scale" in stored):
            weight, kind = _weight(module, tensor, stored, _arguments(config, module))
            weights.append(weight)
            kinds[kind] += 1
    consumed = {part.name for weight in weights for part in weight.parts}
    for name, tensor in stored.items():
        if name.rpartition(".")[2] in _PARTS and name not in consumed and name not in dropped:
            raise CheckpointError(f"tensor {name!r} belongs to no weight", hint="a shard may be missing")
        if tensor.dtype in (*fp8.FP8, "I8") and name.endswith(".weight") and name not in consumed:
            raise CheckpointError(
                f"tensor {name!r} is {tensor.dtype}, and there is no {name}_scale for it", hint="a shard may be missing"
            )
    counted = [f"{count} {kind}" if len(kinds) > 1 else kind for kind, count in kinds.most_common()]
    remarks = (angelslim.REMARK,) if kinds[angelslim.NAME] else ()
    return Undone(tuple(weights), dropped, "; ".join(counted), remarks)


def _quantized(scale: str, stored: Mapping[str, StoredTensor]) -> bool:
    weight = stored.get(scale.removesuffix("_scale"))
    return weight is not None and weight.dtype in ("I8", *fp8.FP8, *FLOATS)


def _weight(
    module: str, tensor: StoredTensor, stored: Mapping[str, StoredTensor], arguments: _Arguments
) -> tuple[DequantizedTensor, str]:
    name = f"{module}.weight"
    scale = stored.get(f"{module}.weight_scale")
    if scale is None:
        raise CheckpointError(f"tensor {tensor.name!r} has no {module}.weight_scale", hint="a shard may be missing")
    stored_bits = 4 if tensor.dtype == "U8" else 8 if tensor.dtype in fp8.FP8 else None
    if stored_bits and arguments.bits not in (None, stored_bits):
        raise CheckpointError(
            f"tensor {tensor.name!r} is {tensor.dtype}, floats of {stored_bits} bits, "
            f"but the config says {arguments.bits} (num_bits)"
        )
    if tensor.dtype == "U8":
        shape = (*tensor.shape[:-1], 2 * tensor.shape[-1])
        if scale.dtype in micro.EXPONENT_TYPES:
            return micro.mxfp4_weight(name, tensor, scale, shape), "mxfp4"
        whole, inputs = (stored.get(f"{module}.{part}_global_scale") for part in ("weight", "input"))
        return micro.nvfp4_weight(name, tensor, scale, shape, whole=whole, divides=True, inputs=inputs), "nvfp4"
    if tensor.dtype in fp8.FP8 and scale.dtype in micro.EXPONENT_TYPES:
        return micro.mxfp8_weight(name, tensor, scale), "mxfp8"
    is_block = len(tensor.shape) != 2 or (len(scale.shape) == 2 and scale.shape[0] not in (1, tensor.shape[0]))
    if tensor.dtype in fp8.FP8 or (tensor.dtype == "I8" and is_block):
        strategy, _ = fp8.strategy(tensor, scale, arguments.block)
        kind = "int" if tensor.dtype == "I8" else "float"
        return fp8.scaled_weight(tensor, scale, arguments.block), f"{kind} 8 bits, {strategy}"
    if tensor.dtype not in ("I8", "I32"):
        raise CheckpointError(f"tensor {tensor.name!r} is {tensor.dtype}, expected packed or eight-bit weights")
    return integer_weight(module, tensor, scale, stored, bits=arguments.bits, group=arguments.group)


def _arguments(config: Mapping[str, Any], module: str) -> _Arguments:
    """Find the group of config.json that a module belongs to: by its name, by a pattern, else by its class.

    Raises:
        CheckpointError: the config is malformed.
    """
    found: tuple[int, Mapping[str, Any]] | None = None
    for group in _groups(config):
        targets = group.get("targets") or ["Linear"]
        if not isinstance(targets, list):
            raise CheckpointError(f"quantization_config: targets are {targets!r}, expected a list")
        for target in targets:
            rank = _rank(str(target), module)
            if rank is not None and (found is None or rank < found[0]):
                found = rank, group
    weights = found[1].get("weights") if found else None
    if not isinstance(weights, Mapping):
        return _Arguments()
    bits, group_size = weights.get("num_bits"), weights.get("group_size")
    if not all(
        value is None or (isinstance(value, int) and not isinstance(value, bool)) for value in (bits, group_size)
    ):
        raise CheckpointError(f"quantization_config: num_bits is {bits!r} and group_size {group_size!r}")
    grouped = weights.get("strategy") in ("group", "tensor_group")
    return _Arguments(bits, group_size if grouped else None, _block_structure(weights.get("block_structure")))


def _block_structure(value: Any) -> tuple[int, int] | None:
    """Read rows and columns of a block, which may be written "128x128". Raises CheckpointError."""
    if isinstance(value, str):
        value = [int(size) if size.isdecimal() else size for size in value.split("x")]
    return fp8.block_size(value, "block_structure")


def _groups(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Give the groups of modules. Raises CheckpointError when the config is malformed."""
    groups = config.get("config_groups") or {}
    if not isinstance(groups, Mapping) or not all(isinstance(group, Mapping) for group in groups.values()):
        raise CheckpointError("quantization_config: config_groups is no object of groups")
    return list(groups.values())


def _rank(target: str, module: str) -> int | None:
    """Rank how closely a target names a module, 0 being the closest; Linear is for all that nothing else names.

    Other classes come last: no name tells which modules are theirs, and most quantized ones are Linear.
    """
    if target.startswith("re:"):
        return 1 if matches(target.removeprefix("re:"), module, where="quantization_config: target") else None
    if target == module or module.endswith(f".{target}"):
        return 0
    if "." in target:
        return None
    return 2 if target == "Linear" else 3


def _refuse(config: Mapping[str, Any]) -> None:
    """Refuse what no weights can make up for, by its name. Raises CheckpointError."""
    for place in (config, *_groups(config)):
        form = place.get("format")
        if form is not None and form not in FORMATS:
            raise CheckpointError(
                f"quantization_config: the compressed-tensors format {form!r} is not known; known are "
                f"{', '.join(FORMATS)}"
            )
    sparsity = _get(config.get("sparsity_config"), "format")
    if sparsity not in (None, "dense"):
        raise CheckpointError(f"quantization_config: sparse weights ({sparsity}) cannot be read", hint=_DECOMPRESS)
    transforms = _get(config.get("transform_config"), "config_groups") or {}
    for transform in transforms.values() if isinstance(transforms, Mapping) else ():
        steps = _get(transform, "apply")
        for applied in steps if isinstance(steps, list) else ():
            if (place := _get(applied, "location")) in _ONLINE:
                raise CheckpointError(
                    f"quantization_config: a transform at {place!r} must run with the model, and no GGUF file has one"
                )


def _get(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else None


SCHEME = Scheme("compressed-tensors", ("compressed-tensors", "compressed_tensors", "sparseml"), holds, undo)
