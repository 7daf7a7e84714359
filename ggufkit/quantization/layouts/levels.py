"""The blocks of ggml's types whose weights lie on levels, taken apart and put together: scales, minima and codes.

A weight of a group (16 or 32 neighbours in a row) is step * scale * level - minimum_step * minimum. Layouts and
arithmetic are those of ggml-common.h and ggml-quants.c, in float32 and in the same order.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.gguf_file.tensor_types import TensorType

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_T = TensorType
# ggml-common.h, kvalues_iq4nl
NON_LINEAR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


@dataclass(frozen=True, slots=True)
class Scales:
    """What the weights of some blocks have in common.

    `steps` are float32 [n_blocks, 1], values of float16; `scales` float32 [n_blocks, n_groups], whole numbers. Of types
    with minima there are `minimum_steps` and `minima`, too, of the same shapes.
    """

    steps: Floats
    scales: Floats
    minimum_steps: Floats | None = None
    minima: Floats | None = None


@dataclass(frozen=True, slots=True)
class LevelLayout:
    """How the blocks of a type are made up.

    `read` takes their scales, `write` puts them and codes (uint8 [n_blocks, block size], numbers of levels) into
    blocks, uint8 [n_blocks, block bytes]. `least` and `most` are the range of scales; of types with one scale for each
    block both are 1. `most_minimum` is that of minima, which are never below 0.
    """

    levels: Floats
    group: int
    read: Callable[[Bytes], Scales]
    write: Callable[[Bytes, Scales, Bytes], None]
    least: int = 1
    most: int = 1
    most_minimum: int | None = None

    @property
    def has_equal_steps(self) -> bool:
        """Whether the levels are whole numbers without gaps."""
        return bool(self.levels[-1] - self.levels[0] == len(self.levels) - 1)


def level_layout_of(kind: TensorType) -> LevelLayout | None:
    """Return how blocks of a type are made up; None for types that are not known here."""
    return _LAYOUTS.get(kind)


# ---- fields


def _half(blocks: Bytes, place: int) -> Floats:
    """Read the float16 at a place of every block, float32 [n_blocks, 1]."""
    return np.ascontiguousarray(blocks[:, place : place + 2]).view("<f2").astype(np.float32)


def _put_half(blocks: Bytes, place: int, values: Floats) -> None:
    blocks[:, place : place + 2] = values.astype("<f2").view(np.uint8)


def _whole(values: Floats) -> NDArray[np.int32]:
    return np.rint(values).astype(np.int32)


def _put_nibbles(blocks: Bytes, place: int, codes: Bytes, run: int) -> None:
    """Write codes below 16: each `run` of them in the low halves of as many bytes, the next in the high halves."""
    pairs = (codes & 15).reshape(len(codes), -1, 2, run)
    packed = (pairs[:, :, 0] | (pairs[:, :, 1] << 4)).reshape(len(codes), -1)
    blocks[:, place : place + packed.shape[1]] = packed


def _put_crumbs(blocks: Bytes, place: int, codes: Bytes) -> None:
    """Write numbers below 4, 128 at a time into 32 bytes, 32 for each two bits."""
    parts = (codes & 3).reshape(len(codes), 2, 4, 32)
    packed = parts[:, :, 0] | (parts[:, :, 1] << 2) | (parts[:, :, 2] << 4) | (parts[:, :, 3] << 6)
    blocks[:, place : place + 64] = packed.reshape(len(codes), 64)


def _put_bits(blocks: Bytes, place: int, bits: NDArray[Any]) -> None:
    """Write flags, uint8 [n_blocks, n], the first one in the lowest bit."""
    packed = np.packbits(bits, axis=1, bitorder="little")
    blocks[:, place : place + packed.shape[1]] = packed


# ---- one scale for each block of 32


def _read_plain(blocks: Bytes) -> Scales:
    steps = _half(blocks, 0)
    return Scales(steps, np.ones_like(steps))


def _read_with_minimum(blocks: Bytes) -> Scales:
    """Of a stored minimum m, which is added, the step is -m, and its number 1."""
    steps = _half(blocks, 0)
    return Scales(steps, np.ones_like(steps), -_half(blocks, 2), np.ones_like(steps))


def _put_steps(blocks: Bytes, scales: Scales) -> int:
    """Write the scale of each block, and its minimum where there is one; return the byte that follows."""
    _put_half(blocks, 0, scales.steps)
    if scales.minimum_steps is None:
        return 2
    _put_half(blocks, 2, -scales.minimum_steps)
    return 4


def _write_4(blocks: Bytes, scales: Scales, codes: Bytes) -> None:
    _put_nibbles(blocks, _put_steps(blocks, scales), codes, 16)


def _write_5(blocks: Bytes, scales: Scales, codes: Bytes) -> None:
    place = _put_steps(blocks, scales)
    _put_bits(blocks, place, codes >> 4)
    _put_nibbles(blocks, place + 4, codes, 16)


def _write_8(blocks: Bytes, scales: Scales, codes: Bytes) -> None:
    _put_half(blocks, 0, scales.steps)
    blocks[:, 2:] = (codes.astype(np.int16) - 127).astype(np.int8).view(np.uint8)


# ---- blocks of 256 whose groups have scales


def _read_q2_k(blocks: Bytes) -> Scales:
    packed = blocks[:, :16].astype(np.int32)
    return Scales(
        _half(blocks, 80),
        (packed & 15).astype(np.float32),
        _half(blocks, 82),
        (packed >> 4).astype(np.float32),
    )


def _write_q2_k(blocks: Bytes, scales: Scales, codes: Bytes) -> None:
    assert scales.minimum_steps is not None
    assert scales.minima is not None
    blocks[:, :16] = _whole(scales.scales) | (_whole(scales.minima) << 4)
    _put_crumbs(blocks, 16, codes)
    _put_half(blocks, 80, scales.steps)
    _put_half(blocks, 82, scales.minimum_steps)


def _read_q3_k(blocks: Bytes) -> Scales:
    packed = blocks[:, 96:108]
    low = np.concatenate([packed[:, :8] & 15, packed[:, :8] >> 4], axis=1)
    high = np.concatenate([(packed[:, 8:] >> shift) & 3 for shift in (0, 2, 4, 6)], axis=1)
    return Scales(_half(blocks, 108), (low | (high << 4)).astype(np.float32) - 32)


def _write_q3_k(blocks: Bytes, scales: Scales, codes: Bytes) -> None:
    # Of the 256 flags, those of weights l, l + 32, l + 64 ... are in one byte.
    flags = (codes >> 2).reshape(len(codes), 8, 32).transpose(0, 2, 1).reshape(len(codes), 256)
    _put_bits(blocks, 0, flags)
    _put_crumbs(blocks, 32, codes)
    numbers = _whole(scales.scales) + 32
    blocks[:, 96:104] = (numbers[:, :8] & 15) | ((numbers[:, 8:] & 15) << 4)
    high = (numbers >> 4).reshape(len(codes), 4, 4)
    blocks[:, 104:108] = high[:, 0] | (high[:, 1] << 2) | (high[:, 2] << 4) | (high[:, 3] << 6)
    _put_half(blocks, 108, scales.steps)


def _read_q45_k(blocks: Bytes) -> Scales:
    packed = blocks[:, 4:16]
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, (third & 15) | ((first >> 6) << 4)], axis=1)
    minima = np.concatenate([second & 63, (third >> 4) | ((second >> 6) << 4)], axis=1)
    return Scales(_half(blocks, 0), scales.astype(np.float32), _half(blocks, 2), minima.astype(np.float32))


def _write_scales_of_q45_k(blocks: Bytes, scales: Scales) -> None:
    assert scales.minimum_steps is not None
    assert scales.minima is not None
    _put_half(blocks, 0, scales.steps)
    _put_half(blocks, 2, scales.minimum_steps)
    numbers, minima = _whole(scales.scales), _whole(scales.minima)
    blocks[:, 4:8] = numbers[:, :4] | ((numbers[:, 4:] >> 4) << 6)
    blocks[:, 8:12] = minima[:, :4] | ((minima[:, 4:] >> 4) << 6)
    blocks[:, 12:16] = (numbers[:, 4:] & 15) | ((minima[:, 4:] & 15) << 4)


def _write_q4_k(blocks: Bytes, scales: Scales, codes: Bytes) -> None:
    _write_scales_of_q45_k(blocks, scales)
    _put_nibbles(blocks, 16, codes, 32)


def _write_q5_k(blocks: Bytes, scales: Scales, codes: Bytes) -> None:
    _write_scales_of_q45_k(blocks, scales)
    flags = (codes >> 4).reshape(len(codes), 8, 32).transpose(0, 2, 1).reshape(len(codes), 256)
    _put_bits(blocks, 16, flags)
    _put_nibbles(blocks, 48, codes, 32)


def _read_q6_k(blocks: Bytes) -> Scales:
    return Scales(_half(blocks, 208), np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32))


def _write_q6_k(blocks: Bytes, scales: Scales, codes: Bytes) -> None:
    _put_nibbles(blocks, 0, codes, 64)
    _put_crumbs(blocks, 128, codes >> np.uint8(4))
    blocks[:, 192:208] = _whole(scales.scales).astype(np.int8).view(np.uint8)
    _put_half(blocks, 208, scales.steps)


def _read_iq4_xs(blocks: Bytes) -> Scales:
    high = np.ascontiguousarray(blocks[:, 2:4]).view("<u2")
    low = np.stack([blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4], axis=2).reshape(-1, 8)
    bits = ((high >> (2 * np.arange(8, dtype=np.uint16))) & 3).astype(np.uint8)
    return Scales(_half(blocks, 0), (low | (bits << 4)).astype(np.float32) - 32)


def _write_iq4_xs(blocks: Bytes, scales: Scales, codes: Bytes) -> None:
    numbers = _whole(scales.scales) + 32
    high = ((numbers >> 4) << (2 * np.arange(8))).sum(axis=1, dtype=np.int64)
    _put_half(blocks, 0, scales.steps)
    blocks[:, 2:4] = high.astype("<u2").view(np.uint8).reshape(-1, 2)
    blocks[:, 4:8] = (numbers[:, ::2] & 15) | ((numbers[:, 1::2] & 15) << 4)
    _put_nibbles(blocks, 8, codes, 16)


def _levels(first: int, last: int) -> Floats:
    return np.arange(first, last + 1, dtype=np.float32)


_OTHER = np.array(NON_LINEAR, np.float32)
_LAYOUTS = {
    _T.Q4_0: LevelLayout(_levels(-8, 7), 32, _read_plain, _write_4),
    _T.Q4_1: LevelLayout(_levels(0, 15), 32, _read_with_minimum, _write_4, most_minimum=1),
    _T.Q5_0: LevelLayout(_levels(-16, 15), 32, _read_plain, _write_5),
    _T.Q5_1: LevelLayout(_levels(0, 31), 32, _read_with_minimum, _write_5, most_minimum=1),
    _T.Q8_0: LevelLayout(_levels(-127, 127), 32, _read_plain, _write_8),
    _T.Q2_K: LevelLayout(_levels(0, 3), 16, _read_q2_k, _write_q2_k, least=0, most=15, most_minimum=15),
    _T.Q3_K: LevelLayout(_levels(-4, 3), 16, _read_q3_k, _write_q3_k, least=-32, most=31),
    _T.Q4_K: LevelLayout(_levels(0, 15), 32, _read_q45_k, _write_q4_k, least=0, most=63, most_minimum=63),
    _T.Q5_K: LevelLayout(_levels(0, 31), 32, _read_q45_k, _write_q5_k, least=0, most=63, most_minimum=63),
    _T.Q6_K: LevelLayout(_levels(-32, 31), 16, _read_q6_k, _write_q6_k, least=-128, most=127),
    _T.IQ4_NL: LevelLayout(_OTHER, 32, _read_plain, _write_4),
    _T.IQ4_XS: LevelLayout(_OTHER, 32, _read_iq4_xs, _write_iq4_xs, least=-32, most=31),
}
