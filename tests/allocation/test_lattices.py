"""Weights that training has left on a 4-bit lattice are stored as they are where types are chosen by measuring."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import random_models

from ggufkit.allocation import targets
from ggufkit.allocation.lattices import on_lattice
from ggufkit.allocation.optimize import Job, optimize
from ggufkit.allocation.options import OptimizeOptions
from ggufkit.allocation.texts import Document, Use, deal
from ggufkit.gguf_file.reader import read_header
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp.dequantize import dequantize
from ggufkit.quantization.options import QuantizeOptions

pytestmark = pytest.mark.engine


def trained(path: Path) -> Path:
    """Write a model whose layers lie on lattices, the largest weight of a block not always at an end."""
    random_models.write(path, tied=False)
    chance = np.random.default_rng(3)
    content = bytearray(path.read_bytes())
    for tensor in read_header(path).tensors:
        if tensor.name.startswith("blk.") and len(tensor.shape) == 2:
            blocks = tensor.elements // 32
            codes = np.where(
                chance.random((blocks, 1)) < 0.7,
                chance.integers(-7, 8, (blocks, 32)),
                chance.integers(-5, 6, (blocks, 32)),
            )
            scales = chance.uniform(0.02, 0.04, (blocks, 1)).astype(np.float16).astype(np.float32)
            content[tensor.offset : tensor.offset + tensor.size] = (codes * scales).astype(np.float16).tobytes()
    path.write_bytes(content)
    return path


def test_lattices_are_found_and_kept(tmp_path: Path) -> None:
    source = trained(tmp_path / "trained-F16.gguf")
    header = read_header(source)
    names = {tensor.name for tensor in header.tensors if tensor.name.startswith("blk.") and len(tensor.shape) == 2}
    everything = {tensor.name for tensor in header.tensors if len(tensor.shape) == 2}
    assert on_lattice([header], everything) == names
    passages = tuple(random_models.text(6000).split("\n\n"))
    told: list[str] = []
    options = OptimizeOptions(
        pool="k-quants",
        chunk_tokens=64,
        quantize=QuantizeOptions(threads=1),
        running=replace(OptimizeOptions().running, threads=1),
        folder=tmp_path / "state",
    )
    found = optimize(
        source,
        [Job(targets.like("Q4_K_M"), tmp_path / "made.gguf")],
        deal([Document("held out", passages)], [Use.PROBING, Use.CHOOSING]),
        options,
        note=told.append,
    )
    [made] = found.files
    assert made.preset is not None
    kept = {name for name, kind in made.types.items() if kind is TensorType.Q4_0}
    assert kept <= names
    assert len(kept) > len(names) / 2
    without = [it for it in made.verified if TensorType.Q4_0 not in it.candidate.types.values()]
    assert {it.candidate.name for it in without} >= {"Q4_K_M", "K types"}
    assert all(made.chosen.measured.kld < 0.5 * it.measured.kld for it in without)
    assert any(f"{len(names)} of " in line and "lattice" in line for line in told)
    after = {tensor.name: tensor for tensor in read_header(made.output).tensors}
    before = {tensor.name: tensor for tensor in header.tensors}
    for name in kept:
        stored = np.fromfile(made.output, np.uint8, after[name].size, offset=after[name].offset)
        own = np.fromfile(source, np.float16, before[name].elements, offset=before[name].offset)
        assert np.abs(dequantize(stored, int(TensorType.Q4_0), own.size) - own).max() <= np.abs(own).max() * 2**-8


def test_ordinary_weights_are_on_none(tmp_path: Path) -> None:
    header = read_header(random_models.write(tmp_path / "plain-F16.gguf"))
    assert on_lattice([header], {tensor.name for tensor in header.tensors}) == frozenset()
