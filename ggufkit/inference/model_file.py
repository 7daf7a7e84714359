"""What is looked at before llama.cpp sees a file: its mistakes there end the whole process, and no `except` helps."""

import math
from collections import Counter
from pathlib import Path

from ggufkit.errors import GgufFileError
from ggufkit.gguf_file.reader import GgufHeader, read_header
from ggufkit.inference.options import CacheType

_MOST_BLOCKS = 512  # LLAMA_MAX_LAYERS
_MOST_EXPERTS = 1024  # LLAMA_MAX_EXPERTS
_ROPE_SCALING = {"none", "linear", "yarn", "longrope"}  # llama-model.cpp, LLAMA_ROPE_SCALING_TYPES
_LFS_POINTER = b"version https://git-lfs"


def check_model_file(path: Path) -> GgufHeader:
    """Read the header of a model file, and refuse what llama.cpp would abort on.

    Raises:
        GgufFileError: the file is missing, a folder, of another format, malformed, cut off, or says about its model
            what cannot be.
    """
    if path.is_dir():
        config = (path / "config.json").exists()
        raise GgufFileError(
            f"{path} is a {'checkpoint ' if config else ''}folder, not a GGUF file",
            hint=f"ggufkit quantize Q4_K_M {path}" if config else None,
        )
    if not path.exists():
        raise GgufFileError(
            f"there is no file {path}", hint="ggufkit quantize Q4_K_M FOLDER makes a model of a checkpoint folder"
        )
    if path.is_file() and _begins_with(path, _LFS_POINTER):
        raise GgufFileError(f"{path} is a Git LFS pointer, not the file itself", hint="git lfs pull")
    header = read_header(path)
    _check_shape(header)
    _check_tokens(header)
    return header


def cache_bytes(header: GgufHeader, tokens: int, key_type: CacheType, value_type: CacheType) -> int:
    """Estimate the memory that keys and values of so many tokens take; 0 when the file does not tell.

    Upper bound: layers that look at a window only, or keep a state instead, are counted in full where the file does
    not give their number of heads as 0.
    """
    values = header.metadata
    architecture = values.get("general.architecture")

    def number(name: str, default: int = 0) -> int:
        value = values.get(f"{architecture}.{name}", default)
        return value if isinstance(value, int) and value > 0 else default

    blocks, heads = number("block_count"), number("attention.head_count")
    shared = values.get(f"{architecture}.attention.head_count_kv", heads)
    key_heads = sum(count for count in shared if isinstance(count, int)) if isinstance(shared, list) else 0
    if not isinstance(shared, list) and isinstance(shared, int):
        key_heads = shared * -(-blocks // number("full_attention_interval", 1))
    head_size = number("embedding_length") // heads if heads else 0
    key, value = number("attention.key_length", head_size), number("attention.value_length", head_size)
    return int(tokens * key_heads * (key * key_type.bytes_per_value + value * value_type.bytes_per_value))


def _begins_with(path: Path, start: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(start)) == start
    except OSError as error:
        raise GgufFileError(f"cannot read {path}: {error.strerror}") from error


def _check_shape(header: GgufHeader) -> None:
    values = header.metadata
    architecture = values.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise _fault(header, "general.architecture", architecture, "a name")
    blocks_key = f"{architecture}.block_count"
    if blocks_key in values:
        blocks = values[blocks_key]
        if not isinstance(blocks, int) or not 1 <= blocks <= _MOST_BLOCKS:
            raise _fault(header, blocks_key, blocks, f"1 to {_MOST_BLOCKS}")
    for name in ("layer_norm_rms_epsilon", "layer_norm_epsilon"):
        key = f"{architecture}.attention.{name}"
        epsilon = values.get(key, 0.0)
        if not isinstance(epsilon, float) or not math.isfinite(epsilon) or epsilon < 0:
            raise _fault(header, key, epsilon, "a number of 0 or more")
    experts_key, used_key = f"{architecture}.expert_count", f"{architecture}.expert_used_count"
    experts = values.get(experts_key, 0)
    if not isinstance(experts, int) or not 0 <= experts <= _MOST_EXPERTS:
        raise _fault(header, experts_key, experts, f"0 to {_MOST_EXPERTS}")
    used = values.get(used_key, 0)
    if not isinstance(used, int) or not min(1, experts) <= used <= experts:
        raise _fault(header, used_key, used, f"1 to {experts}" if experts else "0")
    scaling_key = f"{architecture}.rope.scaling.type"
    scaling = values.get(scaling_key, "none")
    if scaling not in _ROPE_SCALING:
        raise _fault(header, scaling_key, scaling, f"one of {', '.join(sorted(_ROPE_SCALING))}")


def _check_tokens(header: GgufHeader) -> None:
    key = "tokenizer.ggml.tokens"
    tokens = header.metadata.get(key)
    if not isinstance(tokens, list) or len(set(tokens)) == len(tokens):
        return
    [(twice, _)] = Counter(tokens).most_common(1)
    raise GgufFileError(f"{header.path}: {key} holds {twice!r} twice, but tokens must differ")


def _fault(header: GgufHeader, key: str, value: object, wanted: str) -> GgufFileError:
    return GgufFileError(f"{header.path}: {key} is {value!r}, but must be {wanted}")
