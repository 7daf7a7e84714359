"""Weights that lie on a 4-bit lattice already, as quantization-aware training leaves them, packed on that very lattice.

A block of 32 weights is on one where each is scale * q with an integer q of -8 to 7, up to the rounding of the scale to
float16 and of the weights to bfloat16. ggml's encoder takes the largest weight for -8 times the scale, and so moves the
lattices of others, whose largest weight is at -7 or 7, or nearer to zero. Here all of these scales are tried, and what
is found is stored as it is: every q exactly.

The rule holds for single rows, so that it gives the same bytes whatever pieces rows come in. A row is believed to be on
a lattice when all of its blocks are, and most have at least five different weights: ordinary weights never are.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

BLOCK = 32
_BLOCK_BYTES = 18  # ggml-common.h, block_q4_0: a float16 scale, and 16 bytes of two 4-bit numbers plus 8
_LEVELS = (-8, 7, 6, 5, 4, 3, 2, 1)  # where the largest weight of a block may be
_ROUNDING = 2.0**-7  # parts of a weight: it was rounded to bfloat16 (2^-8), the scale to float16, and both show
_LEAST_KINDS = 5
_LEAST_TELLING = 0.5  # of a row's blocks


def pack_rows(rows: Floats) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """Pack the rows that are on lattices, as blocks of Q4_0.

    Takes float32 [n_rows, n_columns], where 32 divides the columns. Returns which rows are, bool [n_rows], and the
    bytes of these, uint8 [n_found, n_columns / 32 * 18].
    """
    found = np.zeros(len(rows), np.bool_)
    if not rows.size:
        return found, np.empty((0, 0), np.uint8)
    blocks = rows.reshape(len(rows), -1, BLOCK)
    # Most models have none, which the first block of each row tells.
    likely = np.flatnonzero(_fit(blocks[:, 0])[2])
    if not len(likely):
        return found, np.empty((0, blocks.shape[1] * _BLOCK_BYTES), np.uint8)
    scales, codes, fits = _fit(blocks[likely].reshape(-1, BLOCK))
    ordered = np.sort(codes, axis=1)
    kinds = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(axis=1)
    fits, telling = (part.reshape(len(likely), -1) for part in (fits, kinds >= _LEAST_KINDS))
    sure = fits.all(axis=1) & (telling.mean(axis=1) >= _LEAST_TELLING)
    found[likely[sure]] = True
    chosen = np.repeat(sure, blocks.shape[1])
    return found, _packed(scales[chosen], codes[chosen]).reshape(int(sure.sum()), blocks.shape[1] * _BLOCK_BYTES)


def _fit(blocks: Floats) -> tuple[NDArray[np.float16], NDArray[np.int8], NDArray[np.bool_]]:
    """Find the lattice of each block, float32 [n, 32]; return scales [n], codes [n, 32], and whether they fit [n]."""
    count = len(blocks)
    scales, codes = np.zeros(count, np.float16), np.zeros((count, BLOCK), np.int8)
    largest = blocks[np.arange(count), np.abs(blocks).argmax(axis=1)]
    fits = largest == 0
    for level in _LEVELS:
        left = np.flatnonzero(~fits & np.isfinite(largest))
        if not len(left):
            break
        values = blocks[left]
        steps = largest[left] / np.float32(level)
        wanted = np.rint(values / steps[:, None])
        squares = (wanted * wanted).sum(axis=1)
        # The largest weight was rounded too: all of them together say more exactly what the scale is.
        together = (values * wanted).sum(axis=1) / squares
        for guess in (steps, together):
            with np.errstate(over="ignore"):
                halves = guess.astype(np.float16)
            back = halves.astype(np.float32)[:, None] * wanted
            near = np.abs(values - back) <= np.abs(back) * _ROUNDING
            good = near.all(axis=1) & (wanted.min(axis=1) >= -8) & (wanted.max(axis=1) <= 7) & ~fits[left]
            place = left[good]
            scales[place], codes[place], fits[place] = halves[good], wanted[good], True
    return scales, codes, fits


def _packed(scales: NDArray[np.float16], codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Write blocks of Q4_0: weight i in the low half of byte i, weight i + 16 in the high one."""
    numbers = (codes + 8).astype(np.uint8)
    packed = np.empty((len(codes), _BLOCK_BYTES), np.uint8)
    packed[:, :2] = scales.astype("<f2").reshape(-1, 1).view(np.uint8)
    packed[:, 2:] = numbers[:, : BLOCK // 2] | (numbers[:, BLOCK // 2 :] << 4)
    return packed
