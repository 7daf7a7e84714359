"""GPTQ: integers packed along the inputs, with a scale and a zero point for each group of inputs of each output.

`qweight` int32 [inputs * bits / 32, outputs], `qzeros` int32 [groups, outputs * bits / 32], `scales` [groups, outputs],
and `g_idx` int32 [inputs], which says of each input what group it is in: with `desc_act` they are not in a row. The
weight is (code - zero) * scale. The first format (v1) stores zero - 1, GPTQModel's v2 and planar ones the zero itself
(AutoGPTQ, nn_modules/qlinear; GPTQModel, utils/model.py: convert_gptq_v1_to_v2_format_module).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ggufkit.checkpoints.source_quantization import awq
from ggufkit.checkpoints.source_quantization._grouped import grouped_weight
from ggufkit.checkpoints.source_quantization._modules import Module, modules, said, summary
from ggufkit.checkpoints.source_quantization._packed import WORD, unpack, words_for
from ggufkit.checkpoints.source_quantization._reading import Array, read_columns, require_shape
from ggufkit.checkpoints.source_quantization._transposed import Transposed, rows_at_once, unpacked_columns
from ggufkit.checkpoints.source_quantization._weights import DequantizedTensor, Scheme, Undone
from ggufkit.checkpoints.tensors import StoredTensor
from ggufkit.errors import CheckpointError

_BITS = range(2, 9)
_FORMATS = ("gptq", "gptq_v2", "gptq_p")


@dataclass(frozen=True, slots=True)
class _Layout:
    """How one module's integers lie: `planar` words, and what was taken off the zero points before packing."""

    bits: int
    planar: bool
    less: int
    by_words: bool  # GPTQModel takes it off whole words, so that it borrows from one value for the next

    def codes(self, words: Array, count: int) -> Array:
        return unpack(words, count, self.bits, planar=self.planar)

    def zeros(self, qzeros: StoredTensor, rows: range) -> Array:
        if self.by_words:
            correct = sum(self.less << shift for shift in range(0, WORD, self.bits))
            return unpacked_columns(qzeros, rows, self.bits, self.codes, correct)
        stored = unpacked_columns(qzeros, rows, self.bits, self.codes)
        return (stored + np.uint8(self.less)) & np.uint8(2**self.bits - 1)


def holds(stored: Mapping[str, StoredTensor]) -> bool:
    """Tell whether modules hold integers in words, and not in AWQ's layout."""
    return bool(modules(stored, "qweight", "I32")) and not awq.holds(stored)


def undo(config: Mapping[str, Any], stored: Mapping[str, StoredTensor]) -> Undone:
    """Make a weight of every module's integers, scales, zero points and order.

    Raises:
        CheckpointError: a part is missing, or its shape fits neither the others nor the config's bits and group size.
    """
    found = [(module, *_weight(module, config)) for module in modules(stored, "qweight", "I32")]
    orders = any("g_idx" in module.parts for module, *_ in found) and bool(config.get("desc_act"))
    words = summary((bits, group) for *_, bits, group in found) + (", act-order" if orders else "")
    remarks = () if config else ("no config: taken for the first format of GPTQ, whose zero points are one less",)
    return Undone(tuple(weight for _, weight, *_ in found), {}, words, remarks)


def _weight(module: Module, config: Mapping[str, Any]) -> tuple[DequantizedTensor, int, int]:
    qweight, scales, qzeros = module.words("qweight"), module["scales"], module.words("qzeros")
    if not len(qweight.shape) == len(scales.shape) == len(qzeros.shape) == 2:
        raise CheckpointError(f"{module.name}: qweight, scales and qzeros are no matrices")
    settings = said(config, module.name)
    groups, outputs = scales.shape
    order = module.words("g_idx") if "g_idx" in module.parts else None
    bits = _bits(module, settings, outputs)
    inputs = qweight.shape[0] * WORD // bits
    if order is not None:
        require_shape(order, order.shape[:1] or (inputs,), "a group for each input")
        (inputs,) = order.shape
    require_shape(qweight, (words_for(inputs, bits), outputs), f"{inputs} inputs of {bits} bits, {outputs} outputs")
    group = module.group_size(settings, inputs)
    require_shape(scales, (-(-inputs // group), outputs), f"groups of {group} (group_size) of {inputs} inputs")
    require_shape(qzeros, (groups, words_for(outputs, bits)), f"{bits} bits for each of {outputs} outputs")
    layout = _layout(bits, config)

    def codes(rows: range) -> Array:
        return np.ascontiguousarray(layout.codes(read_columns(qweight, rows), inputs).T)

    weight = grouped_weight(
        f"{module.name}.weight",
        (outputs, inputs),
        codes,
        Transposed(scales),
        bits=bits,
        group=group,
        parts=(qweight, scales, qzeros, *((order,) if order is not None else ())),
        zeros=partial(layout.zeros, qzeros),
        order=order,
    )
    return (
        replace(weight, rows_at_once=rows_at_once(outputs, inputs)),
        bits,
        -1 if settings.get("group_size") == -1 else group,
    )


def _bits(module: Module, settings: Mapping[str, Any], outputs: int) -> int:
    """Measure the bits by the zero points, which are packed along the outputs, and compare them with the config's."""
    width = module["qzeros"].shape[1]
    fitting = [bits for bits in _BITS if words_for(outputs, bits) == width]
    wanted = settings.get("bits")
    if wanted is None and len(fitting) == 1:
        return fitting[0]
    if wanted not in fitting:
        measured = " or ".join(str(bits) for bits in fitting) or "no"
        raise CheckpointError(
            f"{module.name}: qzeros {module['qzeros'].shape} for {outputs} outputs are of {measured} bits, "
            f"but the config says {wanted!r} (bits)",
            hint="the config belongs to another checkpoint, or a file is damaged",
        )
    return int(wanted)


def _layout(bits: int, config: Mapping[str, Any]) -> _Layout:
    """Read which of the formats it is.

    Raises:
        CheckpointError: one that is made for a single kernel.
    """
    packing = str(config.get("packing_format") or "")  # AutoRound's: only that named for AutoGPTQ takes one off
    named = str(config.get("checkpoint_format") or config.get("format") or "gptq").lower()
    if packing:
        named = "gptq" if "auto_gptq" in packing else "gptq_v2"
    if named not in _FORMATS:
        raise CheckpointError(
            f"quantization_config: checkpoint_format is {named!r}, known are {', '.join(_FORMATS)}",
            hint="convert the checkpoint back to gptq with the tool that made it",
        )
    planar = named == "gptq_p" or bits in (5, 6, 7)
    less = 1 if named == "gptq" else 0
    meta = config.get("meta")
    writers = meta.get("quantizer") if isinstance(meta, Mapping) else None
    is_gptqmodel = "gptqmodel" in str(writers).lower()
    return _Layout(bits, planar, less, bool(less and is_gptqmodel and WORD % bits == 0))


SCHEME = Scheme("GPTQ", ("gptq", "auto-round", "auto_round", "autoround", "intel/auto-round"), holds, undo)
