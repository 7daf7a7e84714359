"""Whether an importance matrix belongs to a model: names and sizes are compared before llama-quantize gives up."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.counting import counted
from ggufkit.errors import InputError, UsageError
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.quantization import imatrix
from ggufkit.quantization.options import QuantizeOptions
from ggufkit.quantization.overrides import EMBEDDINGS
from ggufkit.quantization.source import before_pruning, blocks_of

ENDS = frozenset({*EMBEDDINGS, "output.weight"})  # which no matrix of llama-imatrix's covers, unless it is asked to
_UNTRAVELLED = "nextn."  # blocks that predict further tokens are not run while a matrix is made


@dataclass(frozen=True, slots=True)
class Measured:
    """A tensor that will be quantized: what the matrix must say about it. `values` is columns * experts."""

    name: str
    values: int
    needs_it: bool


def chosen(options: QuantizeOptions) -> Mapping[str, int]:
    """Return the number of values for each tensor that the options choose from the matrix; empty without a matrix.

    Raises:
        InputError: it is no importance matrix.
        UsageError: the options choose nothing.
    """
    if options.imatrix is None:
        return {}
    covered = imatrix.coverage(options.imatrix)
    left = {name: count for name, count in covered.items() if not any(part in name for part in options.exclude_weights)}
    if options.include_weights:
        left = {name: count for name, count in left.items() if any(part in name for part in options.include_weights)}
    for flag, parts in (("--include-weights", options.include_weights), ("--exclude-weights", options.exclude_weights)):
        for part in parts:
            if not any(part in name for name in covered):
                raise UsageError(
                    f"{flag} {part}: no tensor of {options.imatrix} has that in its name",
                    hint=f"the first is {next(iter(covered), 'missing')}; these are plain texts, not patterns",
                )
    if covered and not left:
        raise UsageError(f"nothing of {options.imatrix} is left to be used", hint="quantize without --imatrix")
    return left


def uncovered(
    path: Path,
    covered: Mapping[str, int],
    names: Iterable[str],
    quantized: Sequence[Measured],
    prune_layers: Sequence[int] = (),
) -> tuple[str, ...]:
    """Name the tensors without importance values; refuse a matrix that cannot be this model's.

    `covered` is what was chosen from the matrix, `names` are those of all tensors of the source.

    Raises:
        InputError: it is another model's, or has nothing for a tensor that needs it.
    """
    for tensor in quantized:
        values = covered.get(before_pruning(tensor.name, prune_layers))
        if values not in {None, tensor.values} and tensor.name not in EMBEDDINGS:
            raise InputError(
                f"{path} is not for this model: it has {values:,} values for {tensor.name!r}, expected"
                f" {tensor.values:,}",
                hint="make one with this model: ggufkit imatrix",
            )
    _compare_names(path, imatrix.coverage(path), set(names))
    missing = [t.name for t in quantized if t.needs_it and before_pruning(t.name, prune_layers) not in covered]
    if missing:
        raise InputError(
            f"{path} has nothing for {counted(len(missing), 'tensor that needs', 'tensors that need')} it,"
            f" as {missing[0]!r}",
            hint="make it with more text, so that every expert is used, or take a larger type",
        )
    return tuple(t.name for t in quantized if before_pruning(t.name, prune_layers) not in covered)


def _compare_names(path: Path, covered: Mapping[str, int], names: set[str]) -> None:
    """Refuse a matrix of a model with other tensors, or with another number of blocks."""
    theirs, ours = blocks_of(covered), blocks_of(names)
    foreign = [name for name in covered if name not in names]
    travelled = ours - blocks_of(name for name in names if _UNTRAVELLED in name)
    reason = None
    if theirs - ours:
        reason = f"it knows block {max(theirs)}, and the model ends with block {max(ours, default=-1)}"
    elif len(foreign) * 2 > len(covered):
        reason = f"{len(foreign)} of its {len(covered)} tensors are not there, as {foreign[0]!r}"
    elif theirs and travelled and max(theirs) < max(travelled):
        reason = f"it ends with block {max(theirs)}, and the model with block {max(travelled)}"
    if reason:
        raise InputError(f"{path} is not for this model: {reason}", hint="make one with this model: ggufkit imatrix")


def needs_imatrix(name: str, was: TensorType, to: TensorType, kind: str) -> bool:
    """Whether llama-quantize gives up on a tensor without importance (src/llama-quant.cpp, tensor_requires_imatrix)."""
    if to is was or name in ENDS:
        return False
    return to in _NEED_IMATRIX or (to is TensorType.Q2_K and kind == "Q2_K_S")


# ggml.c, ggml_quantize_requires_imatrix: libggml ends the process that stores these without, whatever the tensor.
NEVER_WITHOUT = frozenset({TensorType.IQ2_XXS, TensorType.IQ2_XS, TensorType.IQ1_S})
_NEED_IMATRIX = {
    TensorType.IQ3_XXS,
    TensorType.IQ2_XXS,
    TensorType.IQ2_XS,
    TensorType.IQ2_S,
    TensorType.IQ1_M,
    TensorType.IQ1_S,
}
