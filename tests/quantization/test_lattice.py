"""Weights that are on a 4-bit lattice already: found, packed without loss, and never seen where there are none."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import tiny_gguf

from ggufkit.gguf_file.reader import read_header
from ggufkit.llamacpp.dequantize import dequantize
from ggufkit.quantization.engines import Engine
from ggufkit.quantization.lattice import pack_rows
from ggufkit.quantization.quantize import quantize

ROWS, COLUMNS = 64, 256
CHANCE = np.random.default_rng(5)


def on_lattice(lowest: int, highest: int, *, scale: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return codes and the weights that a training on a lattice leaves, one scale for each block of 32."""
    codes = CHANCE.integers(lowest, highest + 1, (ROWS, COLUMNS // 32, 32))
    scales = np.float32(0.01) * np.exp(CHANCE.standard_normal((ROWS, COLUMNS // 32, 1))) if scale is None else scale
    return codes.reshape(ROWS, COLUMNS), (codes * scales).astype(np.float32).reshape(ROWS, COLUMNS)


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    bits = values.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


@pytest.mark.parametrize("store", [lambda v: v, to_bfloat16, lambda v: v.astype(np.float16).astype(np.float32)])
@pytest.mark.parametrize(("lowest", "highest"), [(-8, 7), (-7, 7), (-7, 8), (-5, 5), (-8, 0), (0, 8), (-3, 3)])
def test_codes_are_kept_exactly(lowest: int, highest: int, store) -> None:
    codes, weights = on_lattice(lowest, highest)
    weights = store(weights)
    found, packed = pack_rows(weights)
    assert found.all()
    back = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q4_0)  # an independent reader of the blocks
    assert np.abs(back - weights).max() <= np.abs(weights).max() * 2**-8
    # The same weights again, once stored as they had been: no code has moved.
    scale = np.abs(weights.reshape(-1, 32)).max(axis=1, keepdims=True) / np.abs(codes.reshape(-1, 32)).max(
        axis=1, keepdims=True
    )
    assert np.array_equal(np.rint(back.reshape(-1, 32) / scale), codes.reshape(-1, 32))


def test_scales_of_float16_lose_nothing_at_all() -> None:
    scale = CHANCE.uniform(0.001, 0.1, (ROWS, COLUMNS // 32, 1)).astype(np.float16).astype(np.float32)
    _, weights = on_lattice(-7, 7, scale=scale)
    found, packed = pack_rows(weights)
    assert found.all()
    assert np.array_equal(gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q4_0), weights)


@pytest.mark.parametrize(
    "weights",
    [
        CHANCE.standard_normal((4096, 64)),
        CHANCE.uniform(-1, 1, (4096, 64)),
        np.zeros((4, 64)),
        np.full((4, 64), 0.5),
        CHANCE.choice([-0.25, 0, 0.25], (64, 64)),  # three values prove nothing
        CHANCE.integers(-127, 128, (512, 64)) * 0.01,  # eight bits
        np.full((4, 64), np.nan),
        np.full((4, 64), np.inf),
    ],
    ids=["normal", "uniform", "zero", "constant", "ternary", "int8", "nan", "inf"],
)
def test_ordinary_weights_are_on_no_lattice(weights: np.ndarray) -> None:
    for stored in (weights.astype(np.float32), to_bfloat16(weights.astype(np.float32))):
        assert not pack_rows(stored)[0].any()


def test_one_weight_beside_the_lattice_leaves_its_row_to_ggml() -> None:
    _, weights = on_lattice(-8, 7)
    weights[3, 100] = weights[3, 96:128].max() * 0.93
    found, packed = pack_rows(weights)
    assert np.flatnonzero(~found).tolist() == [3]
    assert len(packed) == ROWS - 1


@pytest.mark.engine
def test_both_engines_pack_a_trained_lattice_and_tell(tmp_path: Path) -> None:
    source = tiny_gguf.write_model(tmp_path / "model.gguf")
    header = read_header(source)
    tensor = next(each for each in header.tensors if each.name == "blk.1.ffn_down.weight")
    codes = CHANCE.integers(-7, 8, (tensor.shape[1], tensor.shape[0] // 32, 32))
    trained = (codes * np.float32(0.0123)).astype(np.float16).reshape(tensor.shape[1], -1)
    content = bytearray(source.read_bytes())
    content[tensor.offset : tensor.offset + tensor.size] = trained.tobytes()
    source.write_bytes(content)
    outputs = {}
    for engine in (Engine.BINARY, Engine.DIRECT):
        path = tmp_path / f"{engine}.gguf"
        result = quantize(source, "Q4_0", path, engine=engine)
        assert result.on_lattice == ("blk.1.ffn_down.weight",)
        outputs[engine] = path.read_bytes()
    assert outputs[Engine.BINARY] == outputs[Engine.DIRECT]
    placed = next(each for each in read_header(path).tensors if each.name == tensor.name)
    raw = np.frombuffer(outputs[Engine.DIRECT], np.uint8)[placed.offset : placed.offset + placed.size]
    back = dequantize(raw, int(placed.type), trained.size).reshape(trained.shape)
    assert np.array_equal(np.rint(back / 0.0123), codes.reshape(trained.shape))
    plain = quantize(tiny_gguf.write_model(tmp_path / "plain.gguf"), "Q4_0", tmp_path / "plain-Q4_0.gguf")
    assert plain.on_lattice == ()
