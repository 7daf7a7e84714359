"""Inputs are rounded as ggml's CPU backend rounds them before it multiplies."""

import ctypes
from typing import ClassVar

import numpy as np
import pytest

from ggufkit.allocation.inputs.rounding import BLOCKS, rounded
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp.find import find

BLOCK_OF = {TensorType.Q8_0: 32, TensorType.Q8_K: 256}
LAYOUT = {
    TensorType.Q8_0: np.dtype([("scale", "<f2"), ("levels", "i1", 32)]),
    TensorType.Q8_K: np.dtype([("scale", "<f4"), ("levels", "i1", 256), ("sums", "<i2", 16)]),
}


class _Traits(ctypes.Structure):
    """`struct ggml_type_traits_cpu` of ggml-cpu.h, as far as it is needed."""

    _fields_: ClassVar = [("from_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64))]


@pytest.mark.engine
@pytest.mark.oracle
@pytest.mark.parametrize("kind", BLOCK_OF)
def test_as_ggml_does_it(kind: TensorType) -> None:
    traits = ctypes.CDLL(str(find().library("ggml-cpu"))).ggml_get_type_traits_cpu
    traits.restype = ctypes.POINTER(_Traits)
    chance = np.random.default_rng(3)
    values = (chance.standard_normal((5, 512)) * chance.choice([1e-6, 1, 300], (5, 512))).astype(np.float32)
    values[1] = 0
    values[2, :256] = 0
    blocks = np.zeros(values.size // BLOCK_OF[kind], LAYOUT[kind])
    traits(int(kind)).contents.from_float(values.ctypes.data, blocks.ctypes.data, values.size)
    theirs = blocks["levels"].astype(np.float32) * blocks["scale"].astype(np.float32)[:, None]
    ours = rounded(values, BLOCK_OF[kind])
    steps = np.repeat(np.abs(blocks["scale"].astype(np.float32)), BLOCK_OF[kind]).reshape(values.shape)
    # A value in the middle between two levels may go to either of them.
    assert (np.abs(ours - theirs.reshape(values.shape)) <= 1.001 * steps).all()
    assert np.isclose(ours, theirs.reshape(values.shape), rtol=1e-5, atol=1e-12).mean() > 0.995


@pytest.mark.parametrize("block", BLOCKS)
def test_nothing_moves_by_more_than_half_a_step(block: int) -> None:
    values = np.random.default_rng(1).standard_normal((7, 768)).astype(np.float32)
    largest = np.abs(values.reshape(-1, block)).max(axis=1).repeat(block).reshape(values.shape)
    assert (np.abs(rounded(values, block) - values) <= 0.51 * largest / 127 + 1e-3 * np.abs(values)).all()


def test_smaller_blocks_lose_less() -> None:
    values = np.random.default_rng(2).standard_normal((50, 512)).astype(np.float32)
    values[:, ::100] *= 20
    small, large = (float(np.square(rounded(values, block) - values).mean()) for block in BLOCKS)
    assert small < large / 2
