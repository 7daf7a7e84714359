"""The chunks of tokens that models read, cut from a text by the model's own tokenizer."""

from pathlib import Path

import numpy as np

from ggufkit.allocation.texts import Dealt
from ggufkit.errors import InputError
from ggufkit.evaluation.likelihood import passes
from ggufkit.evaluation.likelihood.passes import Running
from ggufkit.evaluation.likelihood.texts import Chunks, cut_into_chunks
from ggufkit.evaluation.overlap import Overlap, overlaps
from ggufkit.gguf_file.reader import GgufHeader

_SHORTEST = 64  # tokens of a chunk; half of them are scored


def chunks_of(
    text: str, use: str, header: GgufHeader, folder: Path, running: Running, *, length: int, most: int
) -> Chunks:
    """Cut a text into at most `most` chunks of `length` tokens; shorter ones where there is less text than one chunk.

    Raises:
        InputError: the model has no vocabulary, or the text is too short.
    """
    entry = header.metadata.entries.get("tokenizer.ggml.tokens")
    if entry is None:
        raise InputError(f"{header.path} holds no vocabulary, so no text can be given to it")
    path = folder / f"{use}.txt"
    path.write_text(text, encoding="utf-8")
    tokens = passes.tokenize(header.path, [path], folder, running)
    trained = header.metadata.get(f"{header.metadata.get('general.architecture')}.context_length")
    if isinstance(trained, int) and trained > 0:
        length = min(length, trained)
    while length > _SHORTEST and len(tokens[0]) < 2 * length:
        length //= 2
    if len(tokens[0]) < length:
        raise InputError(
            f"only {len(tokens[0]):,} tokens are left for {use}", hint="give more text with -f, some hundred kilobytes"
        )
    return cut_into_chunks([path], tokens, entry.count, length=length, chunks=most)


def shared_passages(
    texts: Dealt, probing: Chunks, choosing: Chunks, model: Path, folder: Path, running: Running
) -> tuple[Overlap, ...]:
    """Find passages that texts of different uses share, where they are too many. Raises as `passes.tokenize`."""
    used = {"the text that tensors are probed with": np.asarray(probing.tokens).reshape(-1)}
    kept = {"the text that candidates are compared on": np.asarray(choosing.tokens).reshape(-1)}
    found = overlaps(used, kept)
    if texts.calibration:
        path = folder / "calibration.txt"
        path.write_text(texts.calibration, encoding="utf-8")
        tokens = passes.tokenize(model, [path], folder, running)[0]
        found += overlaps({"the calibration text": tokens}, {**used, **kept})
    return tuple(overlap for overlap in found if overlap.is_too_much)
