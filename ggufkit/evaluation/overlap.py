"""Whether texts share passages: figures on a text that a model was calibrated or chosen with are too good to be true.

The measure is the share of a text's windows of 32 tokens that occur in another text, at any place.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import InputError

WINDOW = 32  # tokens
LIMIT = 0.001  # of a text's windows
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB), np.uint64(0x9E3779B97F4A7C15))


@dataclass(frozen=True, slots=True)
class Overlap:
    """`share` (0 to 1) of the windows of the text `within` occur in the text `of`."""

    of: str
    within: str
    share: float

    @property
    def is_too_much(self) -> bool:
        """Whether it is above the limit."""
        return self.share > LIMIT

    def __str__(self) -> str:
        return f"{self.share:.1%} of {self.within} is in {self.of} too (passages of {WINDOW} tokens)"


def shared_windows(tokens: NDArray[np.integer], other: NDArray[np.integer]) -> float:
    """Return the share of the windows of `tokens`, int [n], that `other`, int [m], has too; 0 if one is too short."""
    own, others = _fingerprints(tokens), _fingerprints(other)
    if not len(own) or not len(others):
        return 0.0
    return float(np.isin(own, others).mean())


def overlaps(used: Mapping[str, NDArray[np.integer]], kept: Mapping[str, NDArray[np.integer]]) -> tuple[Overlap, ...]:
    """Compare every text that was used before with every one that is kept for measuring; all that is above nothing."""
    return tuple(
        Overlap(first, second, share)
        for first, tokens in used.items()
        for second, others in kept.items()
        if (share := shared_windows(others, tokens)) > 0
    )


def check_disjoint(
    used: Mapping[str, NDArray[np.integer]], kept: Mapping[str, NDArray[np.integer]]
) -> tuple[Overlap, ...]:
    """Refuse to measure on what was used before; return the smaller overlaps.

    Raises:
        InputError: more than a thousandth of a kept text's windows are in one that was used.
    """
    found = overlaps(used, kept)
    if worst := max((overlap for overlap in found if overlap.is_too_much), key=lambda each: each.share, default=None):
        raise InputError(
            f"{worst}: measured on it, every model chosen with {worst.of} looks better than it is",
            hint="split the texts by document, or give another one",
        )
    return found


def _fingerprints(tokens: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Hash each window, uint64 [n - 31]: by doubling, so that each token's place counts."""
    values = _mixed(np.asarray(tokens).astype(np.uint64))
    length = 1
    while length < WINDOW and len(values) > length:
        values = _mixed(values[:-length] * _MIX[2] + values[length:])
        length *= 2
    return values if length == WINDOW else values[:0]


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64 bits so that each depends on all (the finalizer of G. Steele, D. Lea, C. Flood, SplitMix, 2014)."""
    values = values + _MIX[2]
    values = (values ^ (values >> np.uint64(30))) * _MIX[0]
    values = (values ^ (values >> np.uint64(27))) * _MIX[1]
    return values ^ (values >> np.uint64(31))
