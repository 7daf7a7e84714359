"""What refining learns from: the calibration text, the model's own writing, and some of both in disorder.

The latter two are there so that other texts gain as well. Small models write as much by themselves as is read of the
calibration text: of a Llama of 5.2 M weights at the size of Q3_K_M that took another 8 % off the divergence on a kind
of text that was neither calibrated nor chosen with, which the model knew from its training, and 3 % off all.

Feedback makes use of which inputs go together. What goes together in one text need not in another: of the demo model,
uniformly Q4_K, feedback learned from stories and questions took 60 % off the divergence on such, and 11 % off that on
documentation. With three tenths of tokens in disorder these were 61 and 40 %. Four tenths are a compromise: five took
another 11 % off the demo model's documentation, and added 3 % to a Llama of 5.8 M weights on all its texts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ggufkit.allocation.chunks import chunks_wanted
from ggufkit.allocation.refinement.readings import is_held_out
from ggufkit.evaluation.likelihood.texts import Chunks
from ggufkit.gguf_file.reader import GgufHeader

MOST_CHUNKS = 140  # of text
_DISORDER = 0.4  # of all
_LEAST_CHUNKS = 4  # of text, so that some of it is held out too
_NORMAL = 1  # llama.h: LLAMA_TOKEN_TYPE_NORMAL


@dataclass(frozen=True, slots=True)
class LearningText:
    """What refining reads: `tokens`, int32 [n_chunks, chunk length], and which of the chunks are in disorder."""

    tokens: NDArray[np.int32]
    in_disorder: tuple[int, ...]


def most_chunks(length: int) -> int:
    """Return how many chunks of a length are read of a long text, those in disorder included."""
    text = chunks_wanted(MOST_CHUNKS, length)
    return text + _in_disorder(text)


def own_chunks(chunks: Chunks) -> int:
    """Return how many chunks a model writes by itself beside those of the text."""
    return min(len(chunks.tokens), chunks_wanted(MOST_CHUNKS, chunks.length) // 2)


def with_own_writing(chunks: Chunks, own: NDArray[np.int32]) -> Chunks:
    """Put what the model wrote beside the text, in place of some of it where that is long: as much is read in all."""
    count = len(chunks.tokens)
    kept = min(count, max(1, chunks_wanted(MOST_CHUNKS, chunks.length) - len(own)))
    places = (np.arange(kept) * count) // kept
    written = (tuple(text) for text in own.tolist())
    return replace(chunks, tokens=(*(chunks.tokens[place] for place in places), *written), domains=())


def learning_text(chunks: Chunks, header: GgufHeader) -> LearningText:
    """Add chunks of tokens in disorder, half of them from the text, half from the whole vocabulary; mix all.

    Of the chunks that are held out as many are in disorder as of the others, and of the first ones as of all.
    The same every time.
    """
    chance = np.random.default_rng(0)
    text = np.asarray(chunks.tokens, np.int32)
    shape = (_in_disorder(len(text)), chunks.length)
    from_text = chance.choice(text.reshape(-1), shape)
    from_vocabulary = chance.choice(_normal_tokens(chunks, header), shape)
    disorder = np.where(chance.random(shape) < 0.5, from_text, from_vocabulary).astype(np.int32)
    mixed = list(_mixed(list(chance.permutation(text)), list(disorder)))
    odd = tuple(number for number, (_, is_odd) in enumerate(mixed) if is_odd)
    return LearningText(np.stack([chunk for chunk, _ in mixed]), odd)


def _mixed(
    text: list[NDArray[np.int32]], disorder: list[NDArray[np.int32]]
) -> Iterator[tuple[NDArray[np.int32], bool]]:
    """Yield chunks, and whether they are in disorder."""
    count, taken = len(text) + len(disorder), [0, 0]
    for number in range(count):
        held = is_held_out(number, count)
        is_due = int((taken[held] + 1) * _DISORDER) > int(taken[held] * _DISORDER)
        taken[held] += 1
        is_odd = bool(disorder) and (is_due or not text)
        yield (disorder if is_odd else text).pop(), is_odd


def _in_disorder(chunks: int) -> int:
    return round(chunks * _DISORDER / (1 - _DISORDER)) if chunks >= _LEAST_CHUNKS else 0


def _normal_tokens(chunks: Chunks, header: GgufHeader) -> NDArray[np.int32]:
    """Name the tokens that are no special ones; all where the vocabulary does not say."""
    types = header.metadata.get("tokenizer.ggml.token_type")
    everything = np.arange(chunks.vocabulary_size, dtype=np.int32)
    if types is None:
        return everything
    normal = np.flatnonzero(np.asarray(types) == _NORMAL).astype(np.int32)
    return normal if len(normal) else everything
