"""What a model writes by itself is drawn from its probabilities, the same for the same seed."""

from pathlib import Path

import numpy as np
import pytest

from ggufkit.inference.engine import Engine
from ggufkit.inference.free_writing import FreeWriter
from ggufkit.inference.options import CacheType, EngineOptions, FlashAttention

pytestmark = pytest.mark.engine


def written(model: Path, count: int, length: int, seed: int = 0) -> np.ndarray:
    with FreeWriter.open(model, EngineOptions(threads=1)) as writer:
        return np.concatenate(list(writer.write(count, length, seed=seed)))


def test_texts_are_of_the_length_begin_alike_and_are_the_same_again(random_model: Path):
    found = written(random_model, 70, 12)  # more than are written side by side
    assert found.shape == (70, 12)
    with FreeWriter.open(random_model, EngineOptions(threads=1)) as writer:
        begins = writer.bos if writer.wants_bos else writer.eos
        assert found.min() >= 0
        assert found.max() < writer.vocabulary_size
    assert set(found[:, 0].tolist()) == {begins}
    assert len({tuple(text) for text in found.tolist()}) == 70
    np.testing.assert_array_equal(written(random_model, 70, 12), found)
    assert not np.array_equal(written(random_model, 70, 12, seed=1), found)


def test_tokens_come_as_often_as_the_model_expects_them(random_model: Path):
    count = 3000
    found = written(random_model, count, 2)
    options = EngineOptions(
        threads=1, flash_attention=FlashAttention.OFF, cache_type_k=CacheType.F32, cache_type_v=CacheType.F32
    )
    with Engine.open(random_model, options) as engine:
        logits = engine.logits([int(found[0, 0])])[-1].astype(np.float64)
    expected = np.exp(logits - logits.max())
    expected *= count / expected.sum()
    seen = np.bincount(found[:, 1], minlength=len(expected))
    # Of independent draws, the mean of (seen - expected)^2 / expected is 1, within its error of sqrt(2 / n).
    often = expected > 3
    assert often.sum() > 20
    ratio = (np.square(seen - expected) / expected)[often].mean()
    assert abs(ratio - 1) < 5 * np.sqrt(2 / often.sum())
