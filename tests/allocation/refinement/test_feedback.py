"""Error feedback: the loss drops much where inputs go together, and what llama-quantize stores keeps the gain."""

import numpy as np
import pytest

from ggufkit.allocation.refinement.feedback import (
    Feedback,
    Moments,
    _rounded_in_order,
    left_across_rows,
    loss,
    refined,
    stored,
)
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
    [
        TensorType.Q2_K,
        TensorType.Q3_K,
        TensorType.Q4_K,
        TensorType.Q6_K,
        TensorType.IQ4_XS,
        TensorType.Q4_0,
        TensorType.IQ3_S,
        TensorType.IQ3_XXS,
        TensorType.IQ2_S,
        TensorType.IQ2_XS,
        TensorType.IQ2_XXS,
    ],
    ids=lambda kind: kind.name,
)
def test_the_loss_on_other_inputs_drops_and_stays_low_when_stored(kind: TensorType, inputs: np.ndarray) -> None:
    library = ggml.load()
    assert library
    learned, held = (Moments(text.T @ text, TOKENS) for text in inputs)
    importance = (np.diag(learned.given) / TOKENS).astype(np.float32)
    weights = np.random.default_rng(1).standard_normal((ROWS, COLUMNS)).astype(np.float32) * 0.03
    plain = loss(weights, stored(library, weights, kind, importance), held)
    better = refined(library, weights, kind, learned, importance)
    assert loss(weights, better.values, held) < 0.75 * plain
    assert loss(weights, stored(library, better.handed, kind, importance), held) < 0.76 * plain


@pytest.mark.parametrize("kind", [TensorType.Q3_K, TensorType.IQ3_S, TensorType.IQ2_XS], ids=lambda kind: kind.name)
def test_sweeps_make_no_row_worse(kind: TensorType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where inputs go together so much that the pattern which is taken for the nearest is not."""
    library = ggml.load()
    assert library
    chance = np.random.default_rng(7)
    text = chance.standard_normal((TOKENS, 8)) @ chance.standard_normal((8, COLUMNS))
    text += 0.3 * chance.standard_normal(text.shape)
    feedback = Feedback(Moments(text.T @ text, TOKENS))
    weights = chance.standard_normal((ROWS, COLUMNS)).astype(np.float32) * 0.03
    importance = np.ones(COLUMNS, np.float32)
    losses = []
    for sweeps in (0, 1, 3):
        monkeypatch.setattr("ggufkit.allocation.refinement.feedback._SWEEPS", sweeps)
        found = _rounded_in_order(library, weights, kind, feedback._rounding, importance)
        losses.append(feedback._losses(weights, found.values))
    assert (losses[1] <= losses[0] * (1 + 1e-4)).all()
    assert (losses[2] <= losses[1] * (1 + 1e-4)).all()
    assert losses[2].sum() < 0.95 * losses[0].sum()


def test_the_loss_is_that_of_the_outputs(inputs: np.ndarray) -> None:
    chance = np.random.default_rng(2)
    weights, rounded = (chance.standard_normal((8, COLUMNS)).astype(np.float32) for _ in range(2))
    outputs = inputs[0] @ (weights - rounded).T
    assert loss(weights, rounded, Moments(inputs[0].T @ inputs[0], TOKENS)) == pytest.approx(
        (outputs**2).sum(), rel=1e-6
    )


@pytest.fixture(scope="module")
def gradients() -> np.ndarray:
    """Gradients at outputs that go together, float64 [n_tokens, n_out]."""
    chance = np.random.default_rng(8)
    return chance.standard_normal((TOKENS, ROWS)) @ (np.eye(ROWS) + 0.3 * chance.standard_normal((ROWS, ROWS)))


def test_the_loss_of_outputs_is_what_gradients_see_of_errors(inputs: np.ndarray, gradients: np.ndarray) -> None:
    """With gradients that know nothing of the inputs: the mean square of g . (W X - Q X'), over all pairs of tokens."""
    chance = np.random.default_rng(9)
    weights, rounded = (chance.standard_normal((ROWS, COLUMNS)).astype(np.float32) for _ in range(2))
    given = inputs[0] + 0.1 * inputs[1]
    effects = gradients @ (inputs[0] @ weights.T - given @ rounded.T).T
    found = loss(weights, rounded, drifted(inputs[0], given), gradients.T @ gradients)
    assert found == pytest.approx((effects**2).sum(), rel=1e-6)


@pytest.mark.parametrize("kind", [TensorType.Q3_K, TensorType.IQ3_S, TensorType.Q5_0], ids=lambda kind: kind.name)
def test_rows_make_up_for_what_earlier_rows_do_wrong(
    kind: TensorType, inputs: np.ndarray, gradients: np.ndarray
) -> None:
    library = ggml.load()
    assert library
    learned, held = (Moments(text.T @ text, TOKENS) for text in inputs)
    outputs = gradients.T @ gradients
    weights = np.random.default_rng(1).standard_normal((ROWS, COLUMNS)).astype(np.float32) * 0.03
    alone, together = (Feedback(learned, known).refined(library, weights, kind, None) for known in (None, outputs))
    before, after = (
        loss(weights, stored(library, each.handed, kind, None), held, outputs) for each in (alone, together)
    )
    assert left_across_rows(outputs) < after / before < 0.8


def test_rows_whose_errors_do_not_go_together_are_rounded_as_if_each_were_alone(inputs: np.ndarray) -> None:
    library = ggml.load()
    assert library
    learned = Moments(inputs[0].T @ inputs[0], TOKENS)
    weights = np.random.default_rng(1).standard_normal((ROWS, COLUMNS)).astype(np.float32) * 0.03
    outputs = np.diag(np.linspace(1, 3, ROWS))
    alone, together = (
        Feedback(learned, known).refined(library, weights, TensorType.Q3_K, None) for known in (None, outputs)
    )
    np.testing.assert_allclose(together.values, alone.values, atol=1e-6)


def drifted(untouched: np.ndarray, given: np.ndarray) -> Moments:
    change = untouched - given
    return Moments(given.T @ given, len(given), change.T @ given, change.T @ change)


def test_sums_of_two_texts_are_those_of_both(inputs: np.ndarray) -> None:
    first, second = drifted(inputs[0], 1.1 * inputs[0]), drifted(inputs[1], inputs[1] + 0.1 * inputs[0])
    both = drifted(np.concatenate(inputs), np.concatenate([1.1 * inputs[0], inputs[1] + 0.1 * inputs[0]]))
    found = first.with_more(second)
    assert found.tokens == both.tokens == 2 * TOKENS
    for name in ("given", "drift", "inherited"):
        np.testing.assert_allclose(getattr(found, name), getattr(both, name), rtol=1e-7, atol=1e-4)
    plain = first.with_more(Moments(second.given, TOKENS))
    assert (plain.drift, plain.inherited) == (None, None)


def test_the_loss_of_inputs_that_have_drifted_is_that_of_the_outputs(inputs: np.ndarray) -> None:
    chance = np.random.default_rng(4)
    weights, rounded = (chance.standard_normal((8, COLUMNS)).astype(np.float32) for _ in range(2))
    given = inputs[0] + 0.1 * inputs[1]
    outputs = inputs[0] @ weights.T - given @ rounded.T
    assert loss(weights, rounded, drifted(inputs[0], given)) == pytest.approx((outputs**2).sum(), rel=1e-6)


def test_what_earlier_matrices_did_wrong_is_made_up_for_where_it_can_be(inputs: np.ndarray) -> None:
    """Inputs that came out too small everywhere: weights that know it are larger, and the outputs right again."""
    library = ggml.load()
    assert library
    learned, held = (drifted(text, 0.93 * text) for text in inputs)
    weights = np.random.default_rng(5).standard_normal((ROWS, COLUMNS)).astype(np.float32) * 0.03
    unaware = refined(library, weights, TensorType.Q6_K, Moments(learned.given, TOKENS), None)
    aware = refined(library, weights, TensorType.Q6_K, learned, None)
    assert loss(weights, aware.values, held) < 0.1 * loss(weights, unaware.values, held)
    assert np.linalg.norm(aware.values) / np.linalg.norm(unaware.values) == pytest.approx(1 / 0.93, rel=0.02)


def test_inputs_that_are_mostly_lost_change_nothing(inputs: np.ndarray) -> None:
    """To make up for those would be to do less of everything, which is worse for the model as a whole."""
    library = ggml.load()
    assert library
    learned = drifted(inputs[0], inputs[0] + 0.3 * inputs[1])
    weights = np.random.default_rng(6).standard_normal((4, COLUMNS)).astype(np.float32) * 0.03
    plain = refined(library, weights, TensorType.Q6_K, Moments(learned.given, TOKENS), None)
    np.testing.assert_array_equal(refined(library, weights, TensorType.Q6_K, learned, None).values, plain.values)


def test_columns_that_nothing_reaches_are_rounded_as_usual() -> None:
    library = ggml.load()
    assert library
    moments = np.zeros((COLUMNS, COLUMNS))
    moments[:64, :64] = np.eye(64)
    weights = np.random.default_rng(3).standard_normal((4, COLUMNS)).astype(np.float32)
    better = refined(library, weights, TensorType.Q6_K, Moments(moments, 100), None).values
    assert np.isfinite(better).all()
    assert np.abs(better - weights).max() < 0.15
