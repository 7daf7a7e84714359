"""Types that single tensors are given: what llama-quantize makes of its patterns, and how nothing else is to change.

llama-quantize searches each pattern, in lower case, anywhere in a tensor's name, and the first that is found counts
(src/llama-quant.cpp, llama_tensor_get_type). Three things about that are traps:

* A tensor with a type of its own does not advance the counters by which a recipe such as Q4_K_M gives some layers more
  bits, so other layers get them. `pinned` avoids it: it names every tensor with the type that it is to have.
* `--output-tensor-type` and `--token-embedding-type` beat every pattern.
* Patterns count for nothing when the type itself is not a quantized one.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ggufkit.errors import UsageError
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.quantization.options import QuantizeOptions
from ggufkit.quantization.types import QuantizationType

EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
OUTPUT = "output.weight"

Patterns = Sequence[tuple[str, TensorType]]


@dataclass(frozen=True, slots=True)
class Shift:
    """A tensor that nobody named, whose type changed because a neighbour was given one."""

    tensor: str
    without: TensorType
    got: TensorType


def decided(names: Iterable[str], kind: QuantizationType, options: QuantizeOptions) -> dict[str, TensorType]:
    """Say which tensors the patterns decide, and the types that they ask for. `names` are those of the matrices.

    Raises:
        UsageError: a pattern is no regular expression, or decides about no tensor at all.
    """
    names = list(names)
    compiled = [(pattern, _compiled(pattern), tensor_type) for pattern, tensor_type in options.tensor_types]
    if compiled and not kind.base.is_quantized:
        pattern, _, tensor_type = compiled[0]
        raise UsageError(f"the tensor type {pattern}={tensor_type.name} has no effect together with {kind.name}")
    chosen: dict[str, TensorType] = {}
    wins: dict[str, int] = dict.fromkeys((pattern for pattern, _, _ in compiled), 0)
    for name in names:
        winner = next(((pattern, found) for pattern, regex, found in compiled if regex.search(name)), None)
        if winner and beaten_by(name, options) is None:
            chosen[name] = winner[1]
            wins[winner[0]] += 1
    for pattern, regex, tensor_type in compiled:
        if not wins[pattern]:
            _refuse_idle(pattern, tensor_type, [name for name in names if regex.search(name)], names, options)
    return chosen


def pinned(types: Mapping[str, TensorType]) -> Patterns:
    """Name every tensor with its type, so that llama-quantize decides nothing itself."""
    return tuple((f"^{re.escape(name)}$", tensor_type) for name, tensor_type in types.items())


def check_keep(wanted: Mapping[str, TensorType], kind: QuantizationType, options: QuantizeOptions) -> None:
    """Refuse to keep a tensor in a type that another option overrules.

    Raises:
        UsageError: naming the tensor and the option.
    """
    if wanted and not kind.base.is_quantized:
        raise UsageError(f"--keep has no effect together with {kind.name}")
    for name, tensor_type in wanted.items():
        if option := beaten_by(name, options):
            raise UsageError(
                f"--keep wants {name} as {tensor_type.name}, but {option} decides about it",
                hint="give only one of both",
            )


def beaten_by(name: str, options: QuantizeOptions) -> str | None:
    """Name the option that decides about a tensor before any pattern is asked."""
    if name == OUTPUT and options.leave_output_tensor:
        return "--leave-output-tensor"
    if name == OUTPUT and options.output_tensor_type is not None:
        return f"--output-tensor-type {options.output_tensor_type.name}"
    if name == EMBEDDINGS[0] and options.token_embedding_type is not None:
        return f"--token-embedding-type {options.token_embedding_type.name}"
    return None


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern.lower())
    except re.error as error:
        raise UsageError(f"{pattern!r} is not a regular expression: {error}") from None


def _refuse_idle(
    pattern: str, tensor_type: TensorType, matched: Sequence[str], names: Sequence[str], options: QuantizeOptions
) -> None:
    if not matched:
        raise UsageError(f"no matrix's name matches {pattern!r}; the first is {names[0] if names else 'missing'!r}")
    if option := beaten_by(matched[0], options):
        raise UsageError(
            f"{pattern}={tensor_type.name} would have no effect: {option} decides about {matched[0]}",
            hint="give only one of both",
        )
    raise UsageError(
        f"{pattern}={tensor_type.name} would have no effect: an earlier pattern matches {matched[0]}, and the first"
        " that matches counts"
    )


def shifts(without: Mapping[str, TensorType], got: Mapping[str, TensorType], named: Iterable[str]) -> tuple[Shift, ...]:
    """Find the tensors that changed although nobody named them."""
    ours = set(named)
    return tuple(
        Shift(name, without[name], tensor_type)
        for name, tensor_type in got.items()
        if name not in ours and without[name] is not tensor_type
    )
