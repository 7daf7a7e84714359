"""The chunks of tokens that models read, cut from a text by the model's own tokenizer; and whether texts share any."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufkit.allocation.texts import Dealt, Use
from ggufkit.errors import InputError
from ggufkit.evaluation.likelihood import passes
from ggufkit.evaluation.likelihood.passes import Running
from ggufkit.evaluation.likelihood.texts import Chunks, cut_into_chunks
from ggufkit.evaluation.overlap import Overlap, overlaps
from ggufkit.gguf_file.reader import GgufHeader

_USUAL = 512  # tokens of a chunk
_SHORTEST = 64  # tokens of a chunk; half of them are scored
_SAID = {
    Use.CALIBRATION: "the calibration text",
    Use.PROBING: "the text that tensors are probed with",
    Use.CHOOSING: "the text that candidates are compared on",
}


@dataclass(frozen=True, slots=True)
class TextUsed:
    """One of the texts: its hash and length, and the chunks that were read of it (0: it is read by llama-imatrix)."""

    use: Use
    sha256: str
    tokens: int
    chunks: int = 0
    chunk_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TextCheck:
    """What was read, and every pair of texts that share passages, however few."""

    texts: tuple[TextUsed, ...] = ()
    overlaps: tuple[Overlap, ...] = ()


def chunks_of(texts: Dealt, use: Use, header: GgufHeader, running: Running, *, length: int, most: int) -> Chunks:
    """Cut the text of one use into at most `most` chunks of `length` tokens; shorter ones where there is too little.

    Of chunks that are shorter than 512 tokens there may be more, so that as many tokens are read.

    The special tokens of rendered chats become tokens.

    Raises:
        InputError: the model has no vocabulary, or the text is too short.
    """
    entry = header.metadata.entries.get("tokenizer.ggml.tokens")
    if entry is None:
        raise InputError(f"{header.path} holds no vocabulary, so no text can be given to it")
    with tempfile.TemporaryDirectory(prefix="ggufkit-") as folder:
        path = Path(folder) / f"{use.value}.txt"
        tokens = _tokens(texts, use, header.path, path, running)
        length = length_for(len(tokens), use, header, length)
        return cut_into_chunks([path], [tokens], entry.count, length=length, chunks=chunks_wanted(most, length))


def length_for(tokens: int, use: Use, header: GgufHeader, wanted: int) -> int:
    """Say how long the chunks of a text are: no longer than the model was trained for, nor than half of the text.

    Raises:
        InputError: the text is too short for any.
    """
    trained = header.metadata.get(f"{header.metadata.get('general.architecture')}.context_length")
    length = min(wanted, trained) if isinstance(trained, int) and trained > 0 else wanted
    while length > _SHORTEST and tokens < 2 * length:
        length //= 2
    # llama-imatrix reads two at least.
    if tokens < (2 * length if use is Use.CALIBRATION else length):
        raise InputError(
            f"only {tokens:,} tokens are left for {use.value}", hint="give more text with -f, some hundred kilobytes"
        )
    return length


def chunks_wanted(most: int, length: int) -> int:
    """Say how many chunks of a length stand for `most` of the usual length, or as many where they are longer."""
    return most * max(1, _USUAL // length)


def checked_texts(texts: Dealt, probing: Chunks, choosing: Chunks, model: Path, running: Running) -> TextCheck:
    """Say what each text is and how much of it is read, and find passages that two of them share.

    Raises:
        As `passes.tokenize`.
    """
    read = {Use.PROBING: probing, Use.CHOOSING: choosing}
    tokens = {use: np.asarray(chunks.tokens).reshape(-1) for use, chunks in read.items()}
    used = [
        TextUsed(use, texts.sha256(use), chunks.domains[0].tokens, len(chunks.tokens), chunks.length)
        for use, chunks in read.items()
    ]
    found = overlaps({_SAID[Use.PROBING]: tokens[Use.PROBING]}, {_SAID[Use.CHOOSING]: tokens[Use.CHOOSING]})
    if texts.calibration:
        calibration = tokens_of(texts, Use.CALIBRATION, model, running)
        used.insert(0, TextUsed(Use.CALIBRATION, texts.sha256(Use.CALIBRATION), len(calibration)))
        found += overlaps({_SAID[Use.CALIBRATION]: calibration}, {_SAID[use]: each for use, each in tokens.items()})
    return TextCheck(tuple(used), found)


def tokens_of(texts: Dealt, use: Use, model: Path, running: Running) -> NDArray[np.int32]:
    """Cut the whole text of a use into tokens, int32 [n]. Raises as `passes.tokenize`."""
    with tempfile.TemporaryDirectory(prefix="ggufkit-") as folder:
        return _tokens(texts, use, model, Path(folder) / f"{use.value}.txt", running)


def _tokens(texts: Dealt, use: Use, model: Path, path: Path, running: Running) -> NDArray[np.int32]:
    """Write a text to `path`, in a folder that goes away, and let the model cut it into tokens."""
    path.write_text(getattr(texts, use.value), encoding="utf-8")
    (found,) = passes.tokenize(model, [path], path.parent, running, parse_special=texts.special)
    return found
