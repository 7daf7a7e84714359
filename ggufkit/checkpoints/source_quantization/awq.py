"""AWQ in AutoAWQ's GEMM layout: 4-bit integers packed along the outputs, eight in a word in an order of its own.

`qweight` int32 [inputs, outputs / 8], `qzeros` int32 [groups, outputs / 8], `scales` [groups, outputs]. The weight is
(code - zero) * scale (AutoAWQ, awq/utils/packing_utils.py). AutoRound writes the same, symmetric ones with zeros of 8.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ggufkit.checkpoints.source_quantization._grouped import grouped_weight
from ggufkit.checkpoints.source_quantization._modules import Module, modules, said, summary
from ggufkit.checkpoints.source_quantization._packed import WORD
from ggufkit.checkpoints.source_quantization._reading import Array, require_shape
from ggufkit.checkpoints.source_quantization._transposed import Transposed, rows_at_once, unpacked_columns
from ggufkit.checkpoints.source_quantization._weights import DequantizedTensor, Scheme, Undone
from ggufkit.checkpoints.tensors import StoredTensor
from ggufkit.errors import CheckpointError

_BITS = 4
_PER_WORD = WORD // _BITS
_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # which four bits of a word hold output 8k, 8k + 1, ...


def holds(stored: Mapping[str, StoredTensor]) -> bool:
    """Tell whether modules hold integers in words, one for every eight outputs."""
    return any(
        "scales" in module.parts
        and module.parts["scales"].shape[-1:] == tuple(8 * size for size in module.parts["qweight"].shape[-1:])
        for module in modules(stored, "qweight", "I32")
    )


def undo(config: Mapping[str, Any], stored: Mapping[str, StoredTensor]) -> Undone:
    """Make a weight of every module's integers, scales and zero points.

    Raises:
        CheckpointError: a part is missing or does not fit; the config says other bits, or another layout than GEMM.
    """
    version = str(config.get("version") or "gemm").lower()
    if version != "gemm":
        raise CheckpointError(f"quantization_config: version is {version!r}, of AWQ's layouts only 'gemm' is known")
    found = [_weight(module, config) for module in modules(stored, "qweight", "I32")]
    words = summary((_BITS, group) for _, group in found)
    return Undone(tuple(weight for weight, _ in found), {}, words)


def _weight(module: Module, config: Mapping[str, Any]) -> tuple[DequantizedTensor, int]:
    qweight, scales = module.words("qweight"), module["scales"]
    if not len(qweight.shape) == len(scales.shape) == 2:
        raise CheckpointError(f"{module.name}: qweight and scales are no matrices")
    settings = said(config, module.name)
    bits = settings.get("bits", settings.get("w_bit", _BITS))
    (inputs, _), outputs = qweight.shape, scales.shape[1]
    if bits != _BITS:
        raise CheckpointError(f"quantization_config: AWQ of {bits!r} bits (bits); known is only {_BITS}")
    if outputs % _PER_WORD:
        raise CheckpointError(f"tensor {scales.name!r} is for {outputs} outputs, which no words of {_PER_WORD} hold")
    require_shape(qweight, (inputs, outputs // _PER_WORD), f"{outputs} outputs of {_BITS} bits in words of {WORD}")
    group = module.group_size(settings, inputs, "group_size" if "group_size" in settings else "q_group_size")
    require_shape(scales, (-(-inputs // group), outputs), f"groups of {group} (group_size) of {inputs} inputs")
    weight = grouped_weight(
        f"{module.name}.weight",
        (outputs, inputs),
        lambda rows: unpacked_columns(qweight, rows, _BITS, _unpack),
        Transposed(scales),
        bits=_BITS,
        group=group,
        parts=(qweight, scales, *((module["qzeros"],) if "qzeros" in module.parts else ())),
        zeros=_zeros(module, config, (scales.shape[0], outputs)),
    )
    return replace(weight, rows_at_once=rows_at_once(outputs, inputs)), -1 if settings.get(
        "group_size"
    ) == -1 else group


def _zeros(module: Module, config: Mapping[str, Any], shape: tuple[int, int]) -> Callable[[range], Array]:
    groups, outputs = shape
    if "qzeros" not in module.parts and config.get("zero_point") is False:
        return lambda rows: np.full((len(rows), groups), 2 ** (_BITS - 1), np.uint8)
    qzeros = module.words("qzeros")
    require_shape(qzeros, (groups, outputs // _PER_WORD), f"{_BITS} bits for each of {outputs} outputs")
    return lambda rows: unpacked_columns(qzeros, rows, _BITS, _unpack)


def _unpack(words: Array, count: int) -> Array:
    """Unpack uint32 [words, n] to uint8 [count, n]."""
    found = np.empty((len(words), _PER_WORD, words.shape[1]), np.uint8)
    for output, place in enumerate(_PLACES):
        found[:, output] = (words >> np.uint32(_BITS * place)) & np.uint32(15)
    return found.reshape(-1, words.shape[1])[:count]


SCHEME = Scheme("AWQ", ("awq", "auto-round", "auto_round", "autoround", "intel/auto-round"), holds, undo)
