"""What a quantized file is called: the source's name with the type in place of the source's own."""

import re
from pathlib import Path

from ggufkit.quantization.types import ALIASES, TYPES, QuantizationType

_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_TYPE_SUFFIX = re.compile(
    rf"(?P<separator>[-._])(?:{'|'.join([*(kind.name for kind in TYPES), *ALIASES])})$", re.IGNORECASE
)


def output_name(source: str, kind: QuantizationType) -> str:
    """Return `model-Q4_K_M.gguf` for `model-F16.gguf`, `model.gguf`, `model-F16-00001-of-00002.gguf` or a folder."""
    stem = _SHARD.sub("", re.sub(r"\.gguf$", "", source, flags=re.IGNORECASE))
    known = _TYPE_SUFFIX.search(stem)
    separator = known["separator"] if known else "-"
    return f"{stem[: known.start()] if known else stem}{separator}{kind.name}.gguf"


def output_path(source: Path, kind: QuantizationType) -> Path:
    """Return the output's path: beside a GGUF file; in the current folder for a checkpoint, as `convert` does.

    What lies in the hub's cache is called after its repository, and nothing is written beside it.
    """
    cached = _repository_of(source)
    if source.is_dir():
        return Path(output_name(cached.rpartition("/")[2] if cached else source.resolve().name, kind))
    return Path(output_name(source.name, kind)) if cached else source.with_name(output_name(source.name, kind))


def _repository_of(source: Path) -> str | None:
    if not any(part.startswith("models--") for part in source.absolute().parts):
        return None  # and what reads checkpoints need not be loaded
    from ggufkit.checkpoints.hub_cache import repository_of

    return repository_of(source)
