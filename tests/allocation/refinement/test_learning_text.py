"""The text that refining learns from: all of the calibration text, and tokens in disorder that are no special ones."""

from pathlib import Path

import numpy as np
import pytest

import ggufkit
from ggufkit.allocation.refinement.learning_text import learning_text, most_chunks
from ggufkit.allocation.refinement.readings import is_held_out
from ggufkit.evaluation.likelihood.texts import Chunks
from ggufkit.gguf_file.reader import read_header

DEMO = Path(ggufkit.__file__).parent / "demo_model"


def test_text_is_kept_and_two_thirds_of_disorder_are_added(tmp_path: Path) -> None:
    model = tmp_path / "demo.gguf"
    ggufkit.convert(DEMO, model)
    header = read_header(model)
    tokens = tuple(tuple(range(100 + chunk, 164 + chunk)) for chunk in range(60))
    text = learning_text(Chunks(tokens, 64, 1536, ()), header)
    found = text.tokens
    assert [tuple(row) not in set(tokens) for row in found.tolist()] == [at in text.in_disorder for at in range(100)]
    assert found.shape == (100, 64)
    rows = {tuple(row) for row in found.tolist()}
    assert set(tokens) <= rows
    added = np.array([row for row in found.tolist() if tuple(row) not in set(tokens)])
    assert len(added) == 40
    types = np.asarray(header.metadata.get("tokenizer.ggml.token_type"))
    assert set(types[added.reshape(-1)].tolist()) == {1}
    inside = (added >= 100) & (added < 224)
    assert 0.4 < inside.mean() < 0.7
    np.testing.assert_array_equal(found, learning_text(Chunks(tokens, 64, 1536, ()), header).tokens)


@pytest.mark.parametrize("text", [2, 4, 7, 10, 13, 70, 140])
def test_what_judges_is_mixed_as_the_rest_is_and_so_is_a_first_part(tmp_path: Path, text: int) -> None:
    model = tmp_path / "demo.gguf"
    ggufkit.convert(DEMO, model)
    # Tokens that rise one by one are text.
    tokens = tuple(tuple(range(100 + chunk, 164 + chunk)) for chunk in range(text))
    found = learning_text(Chunks(tokens, 64, 1536, ()), read_header(model)).tokens
    is_text = (np.diff(found) == 1).all(axis=1)
    assert is_text.sum() == text
    held = np.array([is_held_out(number, len(found)) for number in range(len(found))])
    assert is_text[held].any()
    assert is_text[~held].any()
    assert abs(is_text[held].sum() - 0.6 * held.sum()) <= 1
    first = slice(0, len(found) // 2)
    if text >= 70:
        assert is_text[first].mean() == pytest.approx(0.6, abs=0.06)


def test_as_much_is_read_of_a_long_text_as_the_estimate_says() -> None:
    tokens = tuple((1,) * 64 for _ in range(140))
    assert most_chunks(512) == 233
    assert len(tokens) + 93 == most_chunks(512)
    assert most_chunks(128) == 933
    assert most_chunks(2048) == 233
