"""Channels that were made outliers by hand are found and scaled back; models without any are left as they are."""

from pathlib import Path

import numpy as np
import pytest
import random_models

from ggufkit.allocation.equalization.channels import Channels, channels_of
from ggufkit.allocation.equalization.outliers import Equalization, outliers
from ggufkit.allocation.equalization.scaling import write_equalized, write_equalized_matrix
from ggufkit.gguf_file.reader import read_header
from ggufkit.quantization.direct import library
from ggufkit.quantization.importance import load_importance

pytestmark = pytest.mark.engine

LOUD = {5: 4, 77: 3, 200: 5}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model and a matrix."""
    folder = tmp_path_factory.mktemp("plain")
    model = random_models.write(folder / "plain-F32.gguf", dtype=np.float32, tied=False)
    return model, random_models.write_imatrix(folder / "imatrix.gguf", model)


def injected(plain: tuple[Path, Path], folder: Path, wanted: dict[int, int]) -> tuple[Path, Path, Equalization]:
    """Make channels of every norm louder, 2^exponent times, and what reads them as much smaller."""
    model, matrix = plain
    there = [each for each in channels_of([read_header(model)]) if each.maker is None]
    exponents = np.zeros(256, np.int8)
    exponents[list(wanted)] = [-each for each in wanted.values()]
    made = Equalization(dict.fromkeys(there, exponents))
    twin, its = folder / "twin-F32.gguf", folder / "twin.gguf"
    write_equalized([read_header(model)], [twin], made, library())
    write_equalized_matrix(matrix, its, made, library())
    return twin, its, made


def test_finds_what_was_made_louder_and_no_more(plain: tuple[Path, Path], tmp_path: Path) -> None:
    twin, matrix, made = injected(plain, tmp_path, LOUD)
    found = outliers([read_header(twin)], load_importance(matrix).values, library())
    assert set(found.exponents) == set(made.exponents)
    for each in found.exponents.values():
        assert {int(place): int(each[place]) for place in np.flatnonzero(each)} == LOUD
    assert found.count == 4 * len(LOUD)
    back = tmp_path / "back-F32.gguf"
    write_equalized([read_header(twin)], [back], found, library())
    assert back.read_bytes() == plain[0].read_bytes()


def test_leaves_even_channels_alone(plain: tuple[Path, Path]) -> None:
    found = outliers([read_header(plain[0])], load_importance(plain[1]).values, library())
    assert found.count == 0


def test_small_columns_of_quiet_inputs_may_be_lost(plain: tuple[Path, Path], tmp_path: Path) -> None:
    twin, _, _ = injected(plain, tmp_path, LOUD)
    values = dict(load_importance(plain[1]).values)
    for name in [name for name in values if "attn_q" in name or "attn_k" in name or "attn_v" in name]:
        values[name] = np.where(np.isin(np.arange(256), list(LOUD)), 1e-6, 1).astype(np.float32)
    found = outliers([read_header(twin)], values, library())
    assert not any("attn_norm" in each.name for each in found.exponents)


def test_names_what_is_added_to_rows_and_columns() -> None:
    channels = Channels("n", 2, ("n.weight",), "m", ("r",), heads=1, repeats=2)
    found = Equalization({channels: np.array([1, -2], np.int8)})
    assert found.added("r").tolist() == [[1, -2, 1, -2]]
    assert found.added("n.weight").tolist() == [[-1, 2]]
    assert found.added("m", 1, 2).tolist() == [[2]]
    assert found.added("other").tolist() == [[0]]
    assert found.count == 2
