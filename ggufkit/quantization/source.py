"""The model that is to be quantized: its parts, what it says about itself, and whether llama.cpp can load it."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ggufkit.errors import GgufFileError, UsageError
from ggufkit.fitness import refuse_unfit
from ggufkit.gguf_file.parts import read_parts
from ggufkit.gguf_file.reader import GgufHeader, TensorInfo, ValueType, read_header
from ggufkit.llamacpp import load_check
from ggufkit.quantization.types import type_numbered

_BLOCK = re.compile(r"(?<=blk\.)\d+(?=\.)")
_NOT_LOADED_ALONE = {"clip"}  # image and audio encoders: quantized like models, loaded beside one
_PER_LAYER_EXCEPT = ("tokenizer.", "general.")


def read_model(source: Path) -> list[GgufHeader]:
    """Read the header of a model, or those of all parts of a split one.

    Raises:
        GgufFileError: one is missing or malformed, or the model is one that llama.cpp would die of.
    """
    headers = read_parts(source)
    if "general.architecture" not in headers[0].metadata:
        raise GgufFileError(f"{source} is not a model: it has no key 'general.architecture'")
    refuse_unfit(headers)
    return headers


def check_loads(source: Path, *, called: Path | None = None) -> None:
    """Refuse a model that llama.cpp cannot load, which llama-quantize would not notice: it asks for no tensor by name.

    Reads no weights: a header with a hole behind it is enough, `called` what people know it by.

    Raises:
        GgufFileError: with llama.cpp's own words.
    """
    first = read_header(source)
    if first.metadata.get("general.architecture") in _NOT_LOADED_ALONE:
        return
    if reason := load_check.why_not(source):
        what = source if called is None else f"what {called} converts to"
        raise GgufFileError(f"llama.cpp cannot load {what}: {reason}", hint="get the model from its source again")


def doubts_about_type(headers: Sequence[GgufHeader], *, allow_requantize: bool) -> tuple[str, ...]:
    """Compare `general.file_type` with the tensors; a lie about being quantized is refused, a smaller one told.

    Raises:
        UsageError: it says quantized where nothing is, or the reverse, and `allow_requantize` is not set.
    """
    claimed = headers[0].metadata.get("general.file_type")
    matrices = [info for header in headers for info in header.tensors if len(info.shape) > 1]
    if not isinstance(claimed, int) or isinstance(claimed, bool) or not matrices:
        return ()
    kind = type_numbered(claimed)
    if kind is None:
        return (f"general.file_type is {claimed}, which no type of this llama.cpp has",)
    found = Counter(info.type for info in matrices)
    lossy = {tensor_type: count for tensor_type, count in found.items() if tensor_type.is_quantized}
    listed = ", ".join(f"{count} {tensor_type.name}" for tensor_type, count in found.most_common())
    lie = f"{headers[0].path}: general.file_type says {kind.name}, but the matrices are {listed}"
    if bool(lossy) != kind.base.is_quantized:
        if not allow_requantize:
            raise UsageError(
                lie,
                hint="convert the model again; or add --allow-requantize if you know where its weights come from",
            )
        return (lie,)
    return () if kind.base.is_quantized or kind.base in found else (lie,)


def kept_tensors(headers: Sequence[GgufHeader], prune_layers: Sequence[int]) -> Iterator[tuple[str, TensorInfo, int]]:
    """Yield (name in the output, tensor, part) for all tensors that pruning leaves; the others are renumbered.

    Raises:
        UsageError: there is no such layer, none would be left, or the metadata describe layers one by one.
    """
    pruned = set(prune_layers)
    if pruned:
        _check_pruning(headers, pruned)
    for part, header in enumerate(headers):
        for info in header.tensors:
            block = _BLOCK.search(info.name)
            if block is None or not pruned:
                yield info.name, info, part
            elif (number := int(block[0])) not in pruned:
                shift = sum(layer < number for layer in pruned)
                yield _BLOCK.sub(str(number - shift), info.name, count=1), info, part


def before_pruning(name: str, prune_layers: Sequence[int]) -> str:
    """Return the name that a tensor of the output has in the source, which is the one in an importance matrix."""
    block = _BLOCK.search(name)
    if block is None or not prune_layers:
        return name
    number = int(block[0])
    for layer in sorted(set(prune_layers)):
        number += layer <= number
    return _BLOCK.sub(str(number), name, count=1)


def blocks_of(names: Iterable[str]) -> set[int]:
    """Return the numbers of the blocks that these tensors belong to."""
    return {int(found[0]) for name in names if name.startswith("blk.") and (found := _BLOCK.search(name))}


def _check_pruning(headers: Sequence[GgufHeader], pruned: set[int]) -> None:
    blocks = blocks_of(info.name for header in headers for info in header.tensors)
    if absent := sorted(pruned - blocks):
        raise UsageError(f"--prune-layers: the model has no layer {absent[0]}; they are 0 to {max(blocks, default=0)}")
    if pruned == blocks:
        raise UsageError("--prune-layers: no layer would be left")
    for key, entry in headers[0].metadata.entries.items():
        per_layer = entry.kind is ValueType.ARRAY and entry.count == len(blocks)
        if per_layer and not key.startswith(_PER_LAYER_EXCEPT):
            raise UsageError(
                f"--prune-layers: {key} has a value for each layer, and llama-quantize would keep all of them;"
                " the result would not load"
            )
