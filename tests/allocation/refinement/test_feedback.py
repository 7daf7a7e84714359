"""Error feedback: the loss drops much where inputs go together, and what llama-quantize stores keeps the gain."""

import numpy as np
import pytest

from ggufkit.allocation.refinement.feedback import loss, refined, stored
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp import ggml

pytestmark = pytest.mark.engine
ROWS, COLUMNS, TOKENS = 48, 256, 3000


@pytest.fixture(scope="module")
def inputs() -> np.ndarray:
    """Inputs of two texts, which share what goes together: float32 [2, n_tokens, n_in]."""
    chance = np.random.default_rng(0)
    mixing = np.eye(COLUMNS) + 0.1 * chance.standard_normal((COLUMNS, COLUMNS))
    return chance.standard_normal((2, TOKENS, COLUMNS)) @ mixing * np.exp(0.5 * chance.standard_normal(COLUMNS))


@pytest.mark.parametrize(
    "kind",
    [TensorType.Q2_K, TensorType.Q3_K, TensorType.Q4_K, TensorType.Q6_K, TensorType.IQ4_XS, TensorType.Q4_0],
    ids=lambda kind: kind.name,
)
def test_the_loss_on_other_inputs_drops_and_stays_low_when_stored(kind: TensorType, inputs: np.ndarray) -> None:
    library = ggml.load()
    assert library
    learned, held = (text.T @ text for text in inputs)
    importance = (np.diag(learned) / TOKENS).astype(np.float32)
    weights = np.random.default_rng(1).standard_normal((ROWS, COLUMNS)).astype(np.float32) * 0.03
    plain = loss(weights, stored(library, weights, kind, importance), held)
    better = refined(library, weights, kind, learned, importance)
    assert loss(weights, better, held) < 0.75 * plain
    assert loss(weights, stored(library, better, kind, importance), held) < 0.8 * plain


def test_the_loss_is_that_of_the_outputs(inputs: np.ndarray) -> None:
    chance = np.random.default_rng(2)
    weights, rounded = (chance.standard_normal((8, COLUMNS)).astype(np.float32) for _ in range(2))
    outputs = inputs[0] @ (weights - rounded).T
    assert loss(weights, rounded, inputs[0].T @ inputs[0]) == pytest.approx((outputs**2).sum(), rel=1e-6)


def test_columns_that_nothing_reaches_are_rounded_as_usual() -> None:
    library = ggml.load()
    assert library
    moments = np.zeros((COLUMNS, COLUMNS))
    moments[:64, :64] = np.eye(64)
    weights = np.random.default_rng(3).standard_normal((4, COLUMNS)).astype(np.float32)
    better = refined(library, weights, TensorType.Q6_K, moments, None)
    assert np.isfinite(better).all()
    assert np.abs(better - weights).max() < 0.15
