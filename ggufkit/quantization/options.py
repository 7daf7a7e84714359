"""How to quantize, apart from the type: the options of llama-quantize, and those that are said in other words."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ggufkit.errors import UsageError
from ggufkit.gguf_file.tensor_types import TensorType

_OVERRIDE_KINDS = ("int", "float", "bool", "str")
_LONGEST_KEY = 127  # bytes, for a key as for a string (include/llama.h, llama_model_kv_override)
_GREATEST_INTEGER = (1 << 32) - 1  # llama-quantize writes every integer as UINT32
_NOT_TO_SET = {
    "general.alignment": "llama-quantize pads with 32 bytes, whatever it says",
    "general.architecture": "the tensors would be another architecture's",
    "general.file_type": "it would lie about the tensors",
    "split.no": "it belongs to the parts of a split model",
    "split.count": "it belongs to the parts of a split model",
    "split.tensors.count": "it belongs to the parts of a split model",
}


@dataclass(frozen=True, slots=True)
class QuantizeOptions:
    """How to quantize, apart from the type.

    `tensor_types` are pairs of a regular expression, searched for in the tensors' names, and the type for those that
    match; the first match counts. They do what llama-quantize does with them, which may give other tensors another
    type as well; `pin` keeps those as they would be.
    `keep` are pairs of a name in the words of Hugging Face (`lm_head`, `layers.0-3.mlp.down_proj`) and a type, None
    for the one that the tensor has; nothing else changes because of them. `modules` says which GGUF tensors each
    tensor of a checkpoint went to; without it they are found by the names that are known for the architecture.
    `max_buffer_size` bounds what llama-quantize holds of one tensor, in mebibytes.
    `overrides` are metadata keys with a value in llama.cpp's notation (`int:32`).
    `search_scales`: what ggml's encoder made is replaced where better scales are found, which llama-quantize cannot do.
    """

    threads: int | None = None
    imatrix: Path | None = None
    include_weights: tuple[str, ...] = ()
    exclude_weights: tuple[str, ...] = ()
    allow_requantize: bool = False
    pure: bool = False
    leave_output_tensor: bool = False
    output_tensor_type: TensorType | None = None
    token_embedding_type: TensorType | None = None
    tensor_types: tuple[tuple[str, TensorType], ...] = ()
    pin: bool = False
    keep: tuple[tuple[str, TensorType | None], ...] = ()
    modules: Mapping[str, tuple[str, ...]] | None = None
    prune_layers: tuple[int, ...] = ()
    keep_split: bool = False
    max_buffer_size: int | None = None
    overrides: tuple[tuple[str, str], ...] = ()
    search_scales: bool = False


def check_options(options: QuantizeOptions) -> None:
    """Refuse what llama-quantize would refuse, or would do differently without a word.

    Raises:
        UsageError: naming the option.
    """
    if options.include_weights and options.exclude_weights:
        raise UsageError("--include-weights and --exclude-weights cannot be used together")
    if (options.include_weights or options.exclude_weights) and options.imatrix is None:
        raise UsageError("--include-weights and --exclude-weights choose from an importance matrix, and none is given")
    if options.max_buffer_size is not None and options.max_buffer_size < 1:
        raise UsageError("--max-buffer-size must be positive")
    for key, value in options.overrides:
        _check_override(key, value)


def _check_override(key: str, value: str) -> None:
    kind, colon, text = value.partition(":")
    what = f"--override-kv {key}={value}"
    if not colon or kind not in _OVERRIDE_KINDS or not key:
        raise UsageError(
            f"{what} is not of the form KEY=TYPE:VALUE, with a type of {', '.join(_OVERRIDE_KINDS)}",
            hint="such as --override-kv tokenizer.ggml.add_bos_token=bool:false",
        )
    if key in _NOT_TO_SET:
        raise UsageError(f"{what} is refused: {_NOT_TO_SET[key]}")
    if max(len(key.encode()), len(text.encode())) > _LONGEST_KEY:
        raise UsageError(f"{what}: keys and values have at most {_LONGEST_KEY} bytes")
    if kind == "bool" and text not in {"true", "false"}:
        raise UsageError(f"{what}: a bool is true or false")
    try:
        number = int(text) if kind == "int" else float(text) if kind == "float" else 0
    except ValueError:
        raise UsageError(f"{what}: {text!r} is no {kind}") from None
    if kind == "int" and not 0 <= number <= _GREATEST_INTEGER:
        raise UsageError(f"{what}: llama-quantize writes integers without a sign, up to {_GREATEST_INTEGER:,}")
