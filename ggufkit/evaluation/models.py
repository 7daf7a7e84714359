"""The models of an evaluation as files: what they are, whether they can be compared, and their hashes."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.errors import InputError
from ggufkit.gguf_file.reader import GgufHeader
from ggufkit.quantization.types import type_numbered

_TOKENS = "tokenizer.ggml.tokens"
_CALIBRATION = "quantize.imatrix.dataset"


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model as its files say: sizes in bytes; the type of every tensor, by name and block; SHA-256 by file.

    `imatrix` says whether it was made with an importance matrix, `calibration` the text that this was made of, as
    llama-quantize writes it into the file; None where it does not say.
    """

    path: Path
    name: str
    architecture: str
    type: str
    bytes: int
    elements: int
    weight_bytes: int  # of all tensors
    bits_per_weight: float
    hashes: Mapping[str, str]
    imatrix: bool
    calibration: str | None
    block_types: Mapping[str, Mapping[int, str]]
    other_types: Mapping[str, str]


def check_same_vocabulary(base: GgufHeader, model: GgufHeader) -> None:
    """Refuse a model whose tokens are not the base's: their probabilities could not be compared.

    llama-perplexity only logs another count and goes on.

    Raises:
        InputError: naming the first token that differs.
    """
    if _same_bytes(base, model):
        return
    ours, theirs = (header.metadata.get(_TOKENS) for header in (base, model))
    if not isinstance(ours, list) or not isinstance(theirs, list):
        raise InputError(f"{(base if not isinstance(ours, list) else model).path} holds no vocabulary")
    if len(ours) != len(theirs):
        raise InputError(
            f"{model.path} has a vocabulary of {len(theirs):,} tokens, and {base.path} one of {len(ours):,}",
            hint="compare a model with the one that it was quantized from",
        )
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        if one != other:
            raise InputError(
                f"token {number} is {other!r} in {model.path}, and {one!r} in {base.path}",
                hint="compare a model with the one that it was quantized from",
            )


def _same_bytes(base: GgufHeader, model: GgufHeader) -> bool:
    """Compare the tokens without making text of them: a hundred thousand take a while."""
    one, other = (header.metadata.entries.get(_TOKENS) for header in (base, model))
    if one is None or other is None or (one.count, one.size) != (other.count, other.size):
        return False
    pieces = zip(base.metadata.raw(_TOKENS), model.metadata.raw(_TOKENS), strict=True)
    return all(ours == theirs for ours, theirs in pieces)


def facts_of(path: Path, parts: Sequence[GgufHeader], hashes: Mapping[str, str]) -> ModelFacts:
    """Say what a model is, from the headers of its files."""
    metadata = parts[0].metadata
    number, calibration = metadata.get("general.file_type"), metadata.get(_CALIBRATION)
    kind = type_numbered(number) if isinstance(number, int) else None
    tensors = [tensor for part in parts for tensor in part.tensors]
    elements = sum(tensor.elements for tensor in tensors)
    size = sum(tensor.size for tensor in tensors)
    blocks: dict[str, dict[int, str]] = defaultdict(dict)
    others: dict[str, str] = {}
    for tensor in tensors:
        first, _, rest = tensor.name.partition(".")
        block, _, name = rest.partition(".")
        if first == "blk" and block.isdigit():
            blocks[name][int(block)] = tensor.type.name
        else:
            others[tensor.name] = tensor.type.name
    return ModelFacts(
        path=path,
        name=str(metadata.get("general.name", path.stem)),
        architecture=str(metadata.get("general.architecture", "")),
        type=kind.name if kind else "unknown",
        bytes=sum(part.file_size for part in parts),
        elements=elements,
        weight_bytes=size,
        bits_per_weight=8 * size / elements if elements else 0.0,
        hashes=hashes,
        imatrix=metadata.get("quantize.imatrix.file") is not None,
        calibration=calibration if isinstance(calibration, str) else None,
        block_types={name: dict(sorted(found.items())) for name, found in blocks.items()},
        other_types=others,
    )


def vocabulary_size(header: GgufHeader) -> int:
    """Return the number of tokens. Raises InputError where there is no vocabulary."""
    entry = header.metadata.entries.get(_TOKENS)
    if entry is None:
        raise InputError(f"{header.path} holds no vocabulary, so no text can be given to it")
    return entry.count


def key_of(parts: Sequence[GgufHeader]) -> str:
    """Name what a model's files are now: what was computed of others must not be taken for its."""
    stamps = [(str(part.path.absolute()), part.path.stat().st_size, part.path.stat().st_mtime_ns) for part in parts]
    return hashlib.sha256(repr(stamps).encode()).hexdigest()[:16]


def hashes_of(parts: Sequence[GgufHeader]) -> Mapping[str, str]:
    """Return the SHA-256 of each of a model's files, by name."""
    found = {}
    for part in parts:
        with part.path.open("rb", buffering=0) as file:
            found[part.path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
