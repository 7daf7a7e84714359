"""Copies hold what they should, in the type that the model has."""

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


def copied(
    folder: Path, values: np.ndarray, kind: gguf.GGMLQuantizationType, wanted: Equalization
) -> tuple[np.ndarray, Path]:
    """Write a tensor that is scaled and one that is not; return what gguf's own reader finds of the first in a copy."""
    path, copy = folder / "model.gguf", folder / "copy.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for name in ("reader.weight", "reader.weight.too"):
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    write_equalized([read_header(path)], [copy], wanted, library())
    changed, same = gguf.GGUFReader(copy).tensors
    assert same.tensor_type == kind
    assert np.array_equal(same.data.reshape(-1), gguf.quants.quantize(values, kind).reshape(-1))
    return gguf.quants.dequantize(changed.data, changed.tensor_type), copy


@pytest.mark.parametrize(("kind", "lost"), [("F32", 1e-7), ("F16", 2**-10), ("BF16", 2**-7)])
def test_numbers_are_rounded_once_more_at_most(tmp_path: Path, kind: str, lost: float) -> None:
    values = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    found, copy = copied(tmp_path, values, gguf.GGMLQuantizationType[kind], FOUND)
    np.testing.assert_allclose(found, values * FACTORS, rtol=lost)
    assert {tensor.type for tensor in read_header(copy).tensors} == {TensorType[kind]}


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_powers_of_two_are_exact(tmp_path: Path, kind: str) -> None:
    stored = gguf.GGMLQuantizationType[kind]
    values = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    values = gguf.quants.dequantize(gguf.quants.quantize(values, stored), stored)
    found, _ = copied(tmp_path, values, stored, FOUND.exact)
    (factors,) = FOUND.exact.factors.values()
    assert set(factors.reshape(-1).tolist()) <= {0.5, 1, 2}
    assert len(set(factors.reshape(-1).tolist())) > 1
    assert np.array_equal(found, values * factors)


def test_all_files_of_a_split_model_are_scaled(tmp_path: Path) -> None:
    """A norm in one file and its reader in another: each copy gets what is its own."""
    values = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    sources = [tmp_path / name for name in ("one.gguf", "two.gguf")]
    for source, name, stored in zip(sources, ("norm.weight", "reader.weight"), (values[0], values), strict=True):
        writer = gguf.GGUFWriter(source, "llama")
        writer.add_tensor(name, stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    copies = [tmp_path / name for name in ("one-copy.gguf", "two-copy.gguf")]
    write_equalized([read_header(source) for source in sources], copies, FOUND, library())
    norm, reader = (gguf.GGUFReader(copy).tensors[0].data for copy in copies)
    np.testing.assert_allclose(norm, values[0] / FACTORS[0], rtol=1e-6)
    np.testing.assert_allclose(reader, values * FACTORS, rtol=1e-6)
