"""Checkpoints that others already quantized, undone tensor by tensor while the conversion streams: one file a scheme.

What comes out is a checkpoint of plain weights under their own names and shapes, so nothing downstream has to know.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ggufkit.checkpoints.source_quantization import (
    awq,
    bitnet,
    bitsandbytes,
    compressed_tensors,
    fp8,
    gptq,
    hqq,
    modelopt,
    mxfp4,
    torchao,
)
from ggufkit.checkpoints.source_quantization._weights import Blocks, DequantizedTensor, Scheme, Undone
from ggufkit.checkpoints.tensors import StoredTensor
from ggufkit.counting import counted
from ggufkit.errors import CheckpointError

__all__ = ["Blocks", "DequantizedTensor", "Scheme", "SourceQuantization", "Undone", "undo_quantization"]

# Where the config does not tell, the first scheme that finds its own tensors has them.
SCHEMES: tuple[Scheme, ...] = (
    mxfp4.SCHEME,
    fp8.SCHEME,
    modelopt.SCHEME,
    compressed_tensors.SCHEME,
    awq.SCHEME,
    gptq.SCHEME,
    bitsandbytes.SCHEME,
    hqq.SCHEME,
    torchao.SCHEME,
    bitnet.SCHEME,
)

# Parts of quantized weights that others call tensors of their own as well (activations scaled by AutoAWQ, ...).
_COMMON = {"weight", "bias", "scale", "scales", "zero", "shape", "axis"}
_PLAIN = {"F64", "F32", "F16", "BF16"}


@dataclass(frozen=True, slots=True)
class SourceQuantization:
    """What was found in a checkpoint that others quantized.

    `scheme` is its name ("GPTQ"), `format` the variant; `weights` counts the tensors that were quantized. `dropped`
    maps a reason to the names of the stored tensors that nobody needs.
    """

    scheme: str
    format: str
    weights: int
    dropped: Mapping[str, tuple[str, ...]]
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Say it in one line."""
        text = f"{self.scheme}{f' ({self.format})' if self.format else ''}: {counted(self.weights, 'quantized tensor')}"
        for reason, names in self.dropped.items():
            kinds = ", ".join(sorted({name.rpartition(".")[2] for name in names}))
            text += f"; dropped {len(names)} {kinds} ({reason})"
        return text


def undo_quantization(
    config: Mapping[str, Any], stored: Mapping[str, StoredTensor]
) -> tuple[Mapping[str, StoredTensor], SourceQuantization | None]:
    """Turn stored tensors into plain weights; also say what was found, None for a checkpoint that is plain already.

    `config` is config.json as the file has it. No data is read.

    Raises:
        CheckpointError: the scheme is not known, or parts are missing or do not fit each other.
    """
    settings = quantization_settings(config)
    scheme, remarks = _choose(settings, stored)
    if scheme is None:
        return stored, None
    if all(tensor.dtype in _PLAIN for tensor in stored.values()) and not scheme.holds(stored):
        return stored, SourceQuantization(scheme.name, "", 0, {}, remarks)
    undone = scheme.undo(settings or {}, stored)
    at = {weight.parts[0].name: weight for weight in undone.weights}
    consumed = {part.name for weight in undone.weights for part in weight.parts}
    tensors: dict[str, StoredTensor] = {}
    for name, tensor in stored.items():
        if weight := at.get(name):
            tensors[weight.name] = weight
        elif name not in consumed and name not in undone.dropped:
            tensors[name] = tensor
    _refuse_orphans(undone, tensors)
    reasons: dict[str, list[str]] = {}
    for name, reason in undone.dropped.items():
        reasons.setdefault(reason, []).append(name)
    found = SourceQuantization(
        scheme.name,
        undone.format,
        len(undone.weights),
        {reason: tuple(names) for reason, names in reasons.items()},
        (*remarks, *undone.remarks),
    )
    return tensors, found


def _refuse_orphans(undone: Undone, left: Mapping[str, StoredTensor]) -> None:
    """Refuse scales and the like whose integers are not there. Raises CheckpointError."""
    kinds = {part.name.rpartition(".")[2] for weight in undone.weights for part in weight.parts[1:]} - _COMMON
    for name, tensor in left.items():
        if name.rpartition(".")[2] in kinds and not isinstance(tensor, DequantizedTensor):
            raise CheckpointError(f"tensor {name!r} belongs to no quantized weight", hint="a shard may be missing")


def quantization_settings(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Find what a config.json says of its quantization: for the whole, or for its text model; None if nothing.

    Raises:
        CheckpointError: it is no object.
    """
    for place in (config, *(config.get(key) for key in ("text_config", "llm_config", "language_config"))):
        for key in ("quantization_config", "compression_config"):
            settings = place.get(key) if isinstance(place, Mapping) else None
            if settings:
                if not isinstance(settings, Mapping):
                    raise CheckpointError(f"config.json: {key} is {settings!r}, expected an object")
                return settings
    return None


def _choose(
    settings: Mapping[str, Any] | None, stored: Mapping[str, StoredTensor]
) -> tuple[Scheme | None, tuple[str, ...]]:
    """Choose by config.json where it fits the tensors, else by the tensors."""
    found = next((scheme for scheme in SCHEMES if scheme.holds(stored)), None)
    if settings is None:
        if found is None:
            return None, ()
        return found, (f"config.json names no quantization, but the tensors are {found.name}'s",)
    method = str(settings.get("quant_method") or "").lower()
    candidates = [scheme for scheme in SCHEMES if method in scheme.methods]  # AutoRound writes several layouts
    named = next((scheme for scheme in candidates if scheme.holds(stored)), candidates[0] if candidates else None)
    if named is not None and named.holds(stored):
        return named, ()
    if found is not None:
        return found, (f"config.json says {method or 'nothing'} (quant_method), but the tensors are {found.name}'s",)
    kinds = Counter(tensor.dtype for tensor in stored.values() if tensor.dtype not in _PLAIN)
    if not kinds and named is not None:
        return named, (f"config.json says {method} (quant_method), but no tensor is quantized: all are taken as plain",)
    supported = ", ".join(sorted({other for scheme in SCHEMES for other in scheme.methods}))
    if named is None:
        raise CheckpointError(
            f"config.json: the quantization {method or 'without a quant_method'!r} is not known; known are {supported}",
            hint="ggufkit convert --converter llama.cpp may know it",
        )
    held = ", ".join(f"{count} of {dtype}" for dtype, count in kinds.most_common())
    raise CheckpointError(f"config.json says {method} (quant_method), but no tensors are stored that way ({held})")
