"""What is looked at before llama.cpp sees a file: its mistakes there end the whole process, and no `except` helps."""

from collections.abc import Sequence
from pathlib import Path

from ggufkit.errors import GgufFileError, InputError, UsageError
from ggufkit.fitness import read_fit_parts
from ggufkit.gguf_file.reader import GgufHeader
from ggufkit.inference.options import DEFAULT_CONTEXT_SIZE, CacheType, LoraAdapter
from ggufkit.llamacpp import cpu

_EQUALIZED = "ggufkit.recipe.equalized"  # written by `ggufkit optimize`
_LFS_POINTER = b"version https://git-lfs"


def check_model_file(path: Path) -> GgufHeader:
    """Read the header of a model file (of a split one: the first part's), and refuse what llama.cpp would abort on.

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
    return read_fit_parts(path)[0]


def check_adapters(header: GgufHeader, adapters: Sequence[LoraAdapter]) -> None:
    """Refuse adapters for a model whose channels are not those that they were trained with. Raises UsageError."""
    if adapters and header.metadata.get(_EQUALIZED) is True:
        raise UsageError(
            f"{header.path} was made of equalized weights, whose channels have other scales than the checkpoint's: an"
            " adapter that was trained for the checkpoint would be wrong",
            hint="ggufkit optimize --no-equalize makes a file that adapters fit",
        )


def context_tokens(header: GgufHeader, wanted: int | None) -> int:
    """Return how many tokens a context has: `EngineOptions.context_size`, as the header's training context fills it."""
    told = header.metadata.get(f"{header.metadata.get('general.architecture')}.context_length", 0)
    trained = told if isinstance(told, int) and told > 0 else DEFAULT_CONTEXT_SIZE
    return min(trained, DEFAULT_CONTEXT_SIZE) if wanted is None else wanted or trained


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


def check_memory(header: GgufHeader, tokens: int, key_type: CacheType, value_type: CacheType) -> None:
    """Refuse a context that cannot fit: the system would grant the memory, and kill us when it is used.

    Raises:
        InputError: so many tokens take more than is free.
    """
    needed, available = cache_bytes(header, tokens, key_type, value_type), cpu.available_memory()
    if needed > available:
        raise InputError(
            f"a context of {tokens} tokens takes {needed / 1e9:.1f} GB, "
            f"but {available / 1e9:.1f} GB of memory are free",
            hint=f"-c {max(256, tokens * available // needed // 2 // 256 * 256)} would fit",
        )


def _begins_with(path: Path, start: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(start)) == start
    except OSError as error:
        raise GgufFileError(f"cannot read {path}: {error.strerror}") from error
