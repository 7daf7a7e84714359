"""From logits to figures for every token: its likelihood, and the divergence from what the base model had said.

The arithmetic is llama-perplexity's (tools/perplexity/perplexity.cpp): float32 but for sums, so that what is printed
there comes out here. Rows are taken a few at a time, so that they stay in the cache, by several threads.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ggufkit.crew import work_through
from ggufkit.evaluation.likelihood.logits_file import decode, encode, likeliest, row_numbers

Floats: TypeAlias = NDArray[np.float32]

COLUMNS = ("nll", "base_nll", "kld", "same_top")
_ELEMENTS_AT_ONCE = 1 << 17  # of float32: half a megabyte for each of the buffers
_NEGLIGIBLE = np.float32(-16.0)  # base log-probabilities below are left out of the divergence


@dataclass(frozen=True, slots=True)
class BaseScores:
    """What a base model says: `nll` float32 [n], the negative log-likelihood of each token; `rows`, uint16, encoded."""

    nll: Floats
    rows: NDArray[np.uint16]


def score_base(logits: Floats, next_tokens: NDArray[np.int32], *, threads: int) -> BaseScores:
    """Score logits, float32 [n, n_vocab], by the tokens that came next, int32 [n], and encode them."""
    nll = np.empty(len(logits), np.float32)
    rows = np.empty((len(logits), row_numbers(logits.shape[1])), "<u2")

    def work(place: slice) -> int:
        part = logits[place]
        largest, log_sum_exp = _log_sum_exp(part, _buffers(part.shape)[0])
        nll[place] = largest + log_sum_exp - part[np.arange(len(part)), next_tokens[place]]
        rows[place] = encode(part, log_sum_exp)
        return len(part)

    _work_through(_places(logits.shape, threads), work, threads)
    return BaseScores(nll, rows)


def score_against(
    logits: Floats, next_tokens: NDArray[np.int32], base_rows: NDArray[np.uint16], *, threads: int
) -> Floats:
    """Compare logits, float32 [n, n_vocab], with the base model's rows; return float32 [n, 4], columns as `COLUMNS`."""
    scores = np.empty((len(logits), len(COLUMNS)), np.float32)

    def work(place: slice) -> int:
        part, rows, tokens = logits[place], base_rows[place], next_tokens[place]
        number = np.arange(len(part))
        first, second = _buffers(part.shape)
        largest, log_sum_exp = _log_sum_exp(part, first)
        shift = largest + log_sum_exp
        base = decode(rows, part.shape[1], out=first)
        scores[place, 0] = shift - part[number, tokens]
        scores[place, 1] = -base[number, tokens]
        weight = np.exp(base, out=second)
        weight *= base > _NEGLIGIBLE  # a product, for choosing among entries takes ten times as long
        base -= part
        base += shift[:, None]
        weight *= base
        scores[place, 2] = weight.sum(axis=1, dtype=np.float64)
        scores[place, 3] = part.argmax(axis=1) == likeliest(rows, part.shape[1])
        return len(part)

    _work_through(_places(logits.shape, threads), work, threads)
    return scores


def score_alone(logits: Floats, next_tokens: NDArray[np.int32], *, threads: int) -> Floats:
    """Return the negative log-likelihood of each next token, float32 [n]."""
    nll = np.empty(len(logits), np.float32)

    def work(place: slice) -> int:
        part = logits[place]
        largest, log_sum_exp = _log_sum_exp(part, _buffers(part.shape)[0])
        nll[place] = largest + log_sum_exp - part[np.arange(len(part)), next_tokens[place]]
        return len(part)

    _work_through(_places(logits.shape, threads), work, threads)
    return nll


def _log_sum_exp(logits: Floats, buffer: Floats) -> tuple[Floats, Floats]:
    """Return the largest logit of each row, and the logarithm of the sum of exp(logit - largest)."""
    largest = logits.max(axis=1)
    shifted = np.subtract(logits, largest[:, None], out=buffer)
    total = np.exp(shifted, out=buffer).sum(axis=1, dtype=np.float64)
    return largest, np.log(total).astype(np.float32)


def _places(shape: tuple[int, ...], threads: int) -> list[slice]:
    """Cut rows into as many equal pieces for each thread as it takes for them to be small."""
    pieces = threads * max(1, -(-shape[0] * shape[1] // (_ELEMENTS_AT_ONCE * threads)))
    step = max(1, -(-shape[0] // pieces))
    return [slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step)]


def _work_through(places: list[slice], work: Callable[[slice], int], threads: int) -> None:
    if threads > 1:
        work_through(places, work, threads=threads, report=lambda _: None)
    else:
        for place in places:
            work(place)


_OWN = threading.local()


def _buffers(shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Two float32 buffers of this thread: fresh memory costs more than the arithmetic."""
    size = shape[0] * shape[1]
    if getattr(_OWN, "room", None) is None or _OWN.room.shape[1] < size:
        _OWN.room = np.empty((2, size), np.float32)
    first, second = _OWN.room[0, :size], _OWN.room[1, :size]
    return first.reshape(shape), second.reshape(shape)
