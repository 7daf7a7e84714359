"""Checkpoints made by the libraries that quantize: read as plain weights, they are what the library makes of them."""

from collections.abc import Callable

import library_fixtures
import numpy as np
import pytest
from stored_tensors import values

from ggufkit.checkpoints import DequantizedTensor, open_checkpoint


def test_there_are_checkpoints() -> None:
    assert len(library_fixtures.NAMES) > 20
    total = sum(path.stat().st_size for path in library_fixtures.DATA.rglob("*") if path.is_file())
    assert total < 12_000_000


@pytest.mark.parametrize("name", library_fixtures.NAMES)
def test_every_weight_is_what_the_library_makes_of_it(name: str, figure: Callable[[str, str], None]) -> None:
    told = library_fixtures.reference(name).tensors
    with open_checkpoint(library_fixtures.DATA / name) as checkpoint:
        assert set(checkpoint.tensors) - {"lm_head.weight"} == set(told)
        found = {key: library_fixtures.read(checkpoint.tensors[key]) for key in told}
        quantized = {key for key in told if isinstance(checkpoint.tensors[key], DequantizedTensor)}
        said = checkpoint.quantization
    assert said is not None
    assert said.weights == len(quantized) > 0
    exact = {key for key in told if told[key].is_exactly(found[key])}
    worst = max(told[key].error(found[key]) for key in quantized)
    types = {told[key].dtype for key in quantized}
    figure(name, f"{len(exact & quantized)}/{len(quantized)} exact in {'/'.join(types)}, error {worst:.1e}; {said}")
    if name in library_fixtures.ROUNDED_TWICE:
        assert worst < library_fixtures.ROUNDING["float16"]
    else:
        assert exact == set(told)


@pytest.mark.parametrize("name", library_fixtures.NAMES)
def test_any_rows_are_those_of_the_whole(name: str) -> None:
    """The conversion asks for rows in pieces that it chooses: none may depend on where it begins."""
    with open_checkpoint(library_fixtures.DATA / name) as checkpoint:
        for key in ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"):
            tensor = checkpoint.tensors[key]
            whole, rows = values(tensor), tensor.shape[0]
            for start, stop in ((0, 1), (rows - 1, rows), (3, 50), (32, 64), (31, 33)):
                assert np.array_equal(values(tensor, range(start, stop)), whole[start:stop]), (key, start, stop)
