"""How far one model's logits are from another's: the figures that papers and llama.cpp's tools report."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Distance:
    """Over all positions: `nmse` is sum (y - x)^2 / sum (x - mean x)^2, x the reference's logits.

    `top1` is the share of positions at which the likeliest token is the same; `mean_kl` and `max_kl` are the divergence
    of the reference's distribution from the other's, sum p log(p / q), in nats (Kullback and Leibler 1951).
    """

    positions: int
    nmse: float
    top1: float
    mean_kl: float
    max_kl: float


def distance(reference: Iterable[Array], found: Iterable[Array]) -> Distance:
    """Compare logits, float32 [n_tokens, n_vocab] per prompt; of the vocabulary, what both have.

    Values that are not numbers make every figure infinite, and `top1` 0.
    """
    squared_error = 0.0
    total = squares = 0.0
    elements = same = positions = 0
    divergences: list[float] = []
    for wanted, got in zip(reference, found, strict=True):
        columns = min(wanted.shape[1], got.shape[1])
        for row, other in zip(wanted[:, :columns], got[:, :columns], strict=True):
            x, y = row.astype(np.float64), other.astype(np.float64)
            if not np.isfinite(y).all():
                return Distance(len(wanted), np.inf, 0.0, np.inf, np.inf)
            squared_error += float(np.square(y - x).sum())
            total += float(x.sum())
            squares += float(np.square(x).sum())
            elements += columns
            same += int(x.argmax() == y.argmax())
            positions += 1
            divergences.append(_divergence(x, y))
    variance = squares - total * total / elements if elements else 0.0
    return Distance(
        positions=positions,
        nmse=squared_error / variance if variance > 0 else (np.inf if squared_error else 0.0),
        top1=same / positions if positions else 1.0,
        mean_kl=float(np.mean(divergences)) if divergences else 0.0,
        max_kl=max(divergences, default=0.0),
    )


def _divergence(x: Array, y: Array) -> float:
    p, q = _log_softmax(x), _log_softmax(y)
    return max(0.0, float((np.exp(p) * (p - q)).sum()))


def _log_softmax(x: Array) -> Array:
    shifted = x - x.max()
    result: Array = shifted - np.log(np.exp(shifted).sum())
    return result
