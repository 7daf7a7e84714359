"""Channels that were made uneven by hand are found and scaled back; even models are left as they are."""

from pathlib import Path

import numpy as np
import pytest
import random_models

from ggufkit.allocation.equalization.channels import Channels, channels_of
from ggufkit.allocation.equalization.copies import write_equalized, write_equalized_matrix
from ggufkit.allocation.equalization.factors import Equalization, factors_of
from ggufkit.allocation.weights import Floats, through
from ggufkit.gguf_file.reader import TensorInfo, read_header
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp.ggml import Ggml
from ggufkit.quantization.direct import library
from ggufkit.quantization.importance import load_importance

pytestmark = pytest.mark.engine

LOUD = {5: 16.0, 77: 9.0, 120: 32.0}


def plain(folder: Path, **kind: object) -> tuple[Path, Path]:
    """Write a model and a matrix."""
    model = random_models.write(folder / "plain-F32.gguf", dtype=np.float32, **kind)  # type: ignore[arg-type]
    return model, random_models.write_imatrix(folder / "imatrix.gguf", model)


def injected(folder: Path, kind: str, made: tuple[Path, Path]) -> tuple[Path, Path]:
    """Make some channels of a kind louder, and what reads them as much smaller; of each expert other ones."""
    model, matrix = made
    factors = {}
    for channels in channels_of([read_header(model)]):
        if channels.kind == kind:
            factors[channels] = np.ones((channels.experts, channels.count), np.float32)
            for expert, (place, times) in enumerate(LOUD.items()):
                factors[channels][expert % channels.experts, place] = 1 / times
    assert factors
    twin, its = folder / "twin-F32.gguf", folder / "twin.gguf"
    write_equalized([read_header(model)], [twin], Equalization(factors), library())
    write_equalized_matrix(matrix, its, Equalization(factors), library())
    return twin, its


def found_in(made: tuple[Path, Path], threads: int = 1) -> Equalization:
    return factors_of([read_header(made[0])], load_importance(made[1]).values, library(), threads=threads)


@pytest.mark.parametrize(
    ("kind", "model"),
    [("attn_norm", {}), ("ffn_norm", {"experts": 4}), ("ffn_up", {}), ("attn_v", {}), ("ffn_up_exps", {"experts": 4})],
)
def test_scales_back_what_was_made_louder(kind: str, model: dict[str, object], tmp_path: Path) -> None:
    twin = injected(tmp_path, kind, plain(tmp_path, **model))
    found = found_in(twin)
    assert {channels.kind for channels in found.factors} == {kind}
    for channels, factors in found.factors.items():
        assert factors.shape == (channels.experts, channels.count)
        for expert, (place, times) in enumerate(LOUD.items()):
            usual = factors[expert % channels.experts]
            assert usual[place] / np.median(usual) == pytest.approx(times, rel=0.5)
        others = np.delete(factors / np.median(factors, axis=1, keepdims=True), list(LOUD), axis=1)
        assert 0.6 < others.min() < others.max() < 1.6  # as far as sampled columns differ by chance


def test_the_same_whatever_the_threads(tmp_path: Path) -> None:
    twin = injected(tmp_path, "ffn_up", plain(tmp_path))
    assert found_in(twin, threads=3).identity == found_in(twin).identity


def test_leaves_even_channels_alone(tmp_path: Path) -> None:
    assert found_in(plain(tmp_path, tied=False)).count == 0


def test_columns_that_nothing_comes_to_do_not_count(tmp_path: Path) -> None:
    """They are small, and made as large as the others they would only take room from them."""
    twin, matrix = injected(tmp_path, "attn_norm", plain(tmp_path))
    values = dict(load_importance(matrix).values)
    for name in values:
        if "attn_q" in name or "attn_k" in name or "attn_v" in name:
            values[name] = np.where(np.isin(np.arange(256), list(LOUD)), 1e-9, 1).astype(np.float32)
    assert factors_of([read_header(twin)], values, library()).count == 0


def test_zeros_and_experts_that_were_never_used_do_no_harm(tmp_path: Path) -> None:
    """Columns of zeros stay, and what has no inputs is scaled by the size of its columns."""
    model, matrix = injected(tmp_path, "ffn_up_exps", plain(tmp_path, experts=4))
    header = read_header(model)
    (down,) = (each for each in header.tensors if each.name == "blk.0.ffn_down_exps.weight")
    stored = np.memmap(model, "<f4", "r+", down.offset, (4, 256, 256))
    stored[:, :, 9] = 0
    stored[1] = 0
    stored.flush()
    values = dict(load_importance(matrix).values)
    values[down.name] = np.where(np.arange(4 * 256) // 256 == 2, np.float32(0), values[down.name])
    found = factors_of([read_header(model)], values, library())
    for factors in found.factors.values():
        assert np.isfinite(factors).all()
    (its,) = (each for channels, each in found.factors.items() if channels.readers == (down.name,))
    assert (its[:, 9] == 1).all()
    assert (its[1] == 1).all()


def test_what_adds_most_to_the_outputs_is_made_larger_than_the_rest(tmp_path: Path) -> None:
    """Of columns alike, those with a hundred times the usual inputs: their share of a block's room grows with use."""
    model, matrix = plain(tmp_path)
    values, loud = dict(load_importance(matrix).values), np.arange(256) % 16 == 3
    for name in values:
        if "ffn_down" in name:
            values[name] = np.where(loud, 1e4, 1).astype(np.float32)
    found = factors_of([read_header(model)], values, library())
    assert {channels.kind for channels in found.factors} == {"ffn_up"}
    for (factors,) in found.factors.values():
        assert np.median(factors[loud]) > 1.3 * np.median(factors[~loud])


def test_encoders_get_the_importance_of_scaled_inputs_and_none_where_none_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin, matrix = injected(tmp_path, "attn_norm", plain(tmp_path))
    values = dict(load_importance(matrix).values)
    del values["blk.0.attn_v.weight"]
    asked = []

    def observed(library: Ggml, rows: Floats, kind: TensorType, columns: int, weights: Floats | None) -> Floats:
        asked.append((rows.reshape(-1, columns), weights))
        return through(library, rows, kind, columns, weights)

    monkeypatch.setattr("ggufkit.allocation.equalization.factors.through", observed)
    factors_of([read_header(twin)], values, library())
    assert any(weights is None for _, weights in asked)
    # What a column gives is its size times its inputs: in the twin as much of each channel, and so it stays.
    given = [np.square(rows).mean(axis=0) * weights for rows, weights in asked if weights is not None]
    for each in given:
        assert each[list(LOUD)] / np.median(each) == pytest.approx(np.ones(3), abs=0.7)


def test_no_factor_is_beyond_what_halves_can_hold(tmp_path: Path) -> None:
    model, matrix = plain(tmp_path)
    for tensor in read_header(model).tensors:
        if tensor.name.endswith(("attn_q.weight", "attn_k.weight", "attn_v.weight")):
            stored = np.memmap(model, "<f4", "r+", tensor.offset, tensor.shape[::-1])
            stored[:, ::9] *= 1e-9
            stored.flush()
    values = dict(load_importance(matrix).values)
    loud = np.where(np.arange(256) % 9, 1, 1e18).astype(np.float32)
    values |= {name: loud for name in values if name.rpartition("attn_")[2] in {"q.weight", "k.weight", "v.weight"}}
    found = factors_of([read_header(model)], values, library())
    assert {channels.kind for channels in found.factors} == {"attn_norm"}
    for factors in found.factors.values():
        assert 1 / 257 < factors.min() < factors.max() < 257


def test_names_what_rows_and_columns_are_multiplied_by() -> None:
    channels = Channels("n", 2, ("n.weight",), "m", ("r",), heads=1, repeats=2)
    found = Equalization({channels: np.array([[2, 0.25]], np.float32)})

    def of(name: str, *shape: int, start: int = 0, end: int | None = None) -> list[list[float]]:
        return found.of_rows(TensorInfo(name, shape, TensorType.F32, 0, 0), start, end).tolist()  # type: ignore[no-any-return]

    assert of("r", 4, 3) == [[2, 0.25, 2, 0.25]]
    assert of("n.weight", 2) == [[0.5, 4]]
    assert of("m", 3, 2, start=1, end=2) == [[4]]
    assert of("other", 3, 2) == [[1]]
    assert found.count == 2


def test_rows_of_experts_have_columns_of_their_own() -> None:
    channels = Channels("up", 2, ("up.bias",), "up", ("down",), experts=2)
    found = Equalization({channels: np.array([[2, 1], [1, 4]], np.float32)})

    def of(name: str, *shape: int, start: int = 0, end: int | None = None) -> list[list[float]]:
        return found.of_rows(TensorInfo(name, shape, TensorType.F32, 0, 0), start, end).tolist()  # type: ignore[no-any-return]

    assert of("down", 2, 3, 2, start=2, end=4) == [[2, 1], [1, 4]]  # three rows for each expert
    assert of("down", 2, 3, 2)[3:] == [[1, 4]] * 3
    assert of("up", 5, 2, 2) == [[0.5], [1], [1], [0.25]]
    assert of("up.bias", 2, 2) == [[0.5, 1], [1, 0.25]]
