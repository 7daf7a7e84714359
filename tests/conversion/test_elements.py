"""Element conversions: libggml and numpy give the same bits, which are those of the definitions."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType

from ggufkit.conversion import elements
from ggufkit.llamacpp import ggml

TYPES = [GGMLQuantizationType[name] for name in ("F32", "F16", "BF16", "Q8_0")]
ALL_HALVES = np.arange(1 << 16, dtype=np.uint16)


def stored(dtype: str) -> np.ndarray:
    """Every finite 16-bit pattern, or a wide range of float32."""
    if dtype == "F16":
        return ALL_HALVES[(ALL_HALVES & 0x7C00) != 0x7C00][:63_488]
    if dtype == "BF16":
        return ALL_HALVES[(ALL_HALVES & 0x7F80) != 0x7F80][:65_024]
    random = np.random.default_rng(0)
    values = random.standard_normal(64_000) * 10.0 ** random.integers(-8, 4, 64_000)
    return values.astype(np.float32 if dtype == "F32" else np.float64)


@pytest.mark.engine
@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
@pytest.mark.parametrize("tensor_type", TYPES, ids=lambda kind: kind.name)
def test_libggml_and_numpy_agree(
    dtype: str, tensor_type: GGMLQuantizationType, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = stored(dtype)
    if tensor_type is GGMLQuantizationType.Q8_0 and dtype == "BF16":
        source = source[(source & 0x7FFF) < 0x7000]  # beyond this, the scale of a block is no float16
    source = source[: source.size // 32 * 32]
    assert ggml.load() is not None
    by_libggml = elements.encode(source, dtype, tensor_type, 32).tobytes()
    monkeypatch.setattr(ggml, "load", lambda: None)
    assert elements.encode(source, dtype, tensor_type, 32).tobytes() == by_libggml


def test_bf16_is_the_upper_half_of_float32() -> None:
    bits = np.array([0x3F80, 0xC049, 0x0001, 0x7F7F], np.uint16)
    expected = (bits.astype(np.uint32) << 16).view(np.float32)
    assert np.array_equal(elements.to_float32(bits, "BF16"), expected)


def misfit(source: np.ndarray, dtype: str, tensor_type: GGMLQuantizationType) -> int | None:
    return elements.first_misfit(source, dtype, elements.encode(source, dtype, tensor_type, 32), tensor_type)


@pytest.mark.parametrize("tensor_type", TYPES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -np.nan])
def test_the_first_element_that_is_not_finite_is_found(tensor_type: GGMLQuantizationType, value: float) -> None:
    source = np.linspace(-65504, 65504, 1024).astype(np.float32)
    assert misfit(source, "F32", tensor_type) is None
    source[123] = value
    source[500] = value
    assert misfit(source, "F32", tensor_type) == 123


def test_overflow_of_float16_is_found() -> None:
    source = np.array([1.0, 65504.0, -70000.0], np.float32)
    assert misfit(source, "F32", GGMLQuantizationType.F16) == 2


@pytest.mark.parametrize("dtype", ["F32", "F64", "BF16"])
def test_overflow_of_a_block_s_scale_is_found(dtype: str) -> None:
    source = np.linspace(-1, 1, 128).astype(np.float32)
    source[70] = -1e9  # of a block from 64 to 95, whose scale of 1e9 / 127 is no float16
    stored_as = {
        "F32": source,
        "F64": source.astype(np.float64),
        "BF16": (source.view(np.uint32) >> 16).astype(np.uint16),
    }
    assert misfit(stored_as[dtype], dtype, GGMLQuantizationType.Q8_0) == 70


@pytest.mark.parametrize("tensor_type", TYPES, ids=lambda kind: kind.name)
def test_a_double_out_of_range_is_found(tensor_type: GGMLQuantizationType) -> None:
    source = np.ones(64)
    source[40] = 1e200
    assert misfit(source, "F64", tensor_type) == 40
