"""Copies hold what they should, in the type that loses least, and llama.cpp opens them."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from ggufkit.allocation.equalization.channels import Channels
from ggufkit.allocation.equalization.copies import write_equalized
from ggufkit.allocation.equalization.factors import Equalization
from ggufkit.gguf_file.reader import read_header
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.quantization.direct import library

pytestmark = pytest.mark.engine

FACTORS = np.array([[1.3, 0.7, 100, 1]], np.float32)
FOUND = Equalization({Channels("norm", 4, ("norm.weight",), None, ("reader.weight",)): FACTORS})


def copied(folder: Path, values: np.ndarray, kind: gguf.GGMLQuantizationType) -> tuple[np.ndarray, Path]:
    """Write two tensors of one name in another's, copy them, and return what gguf's own reader finds in the copy."""
    path, copy = folder / "model.gguf", folder / "copy.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("a.key", "reader.weight")
    for name in ("reader.weight", "reader.weight.too"):
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    write_equalized([read_header(path)], [copy], FOUND, library())
    changed, same = gguf.GGUFReader(copy).tensors
    assert same.tensor_type == kind
    assert np.array_equal(same.data.reshape(-1), gguf.quants.quantize(values, kind).reshape(-1))
    return gguf.quants.dequantize(changed.data, changed.tensor_type), copy


@pytest.mark.parametrize(("kind", "lost"), [("F32", 1e-7), ("F16", 2**-10), ("BF16", 2**-8)])
def test_numbers_are_rounded_once_more_at_most(tmp_path: Path, kind: str, lost: float) -> None:
    values = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    found, copy = copied(tmp_path, values, gguf.GGMLQuantizationType[kind])
    np.testing.assert_allclose(found, values * FACTORS, rtol=lost)
    stored = {tensor.name: tensor.type for tensor in read_header(copy).tensors}
    assert stored["reader.weight"] is (TensorType.F16 if kind == "BF16" else TensorType[kind])
    assert stored["reader.weight.too"] is TensorType[kind]


def test_numbers_that_have_no_room_in_f16_stay_in_bf16(tmp_path: Path) -> None:
    values = np.ones((5, 4), np.float32)
    values[3, 2] = 1000
    found, copy = copied(tmp_path, values, gguf.GGMLQuantizationType.BF16)
    np.testing.assert_allclose(found, values * FACTORS, rtol=2**-7)
    assert read_header(copy).tensors[0].type is TensorType.BF16
