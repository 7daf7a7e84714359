"""The arithmetic of scores, against the definitions in float64."""

import numpy as np
import pytest

from ggufkit.evaluation.likelihood.logits_file import decode, encode, row_numbers
from ggufkit.evaluation.likelihood.scores import score_against, score_alone, score_base


def log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))


@pytest.fixture(params=[7, 1000, 150_001])
def logits(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    chance = np.random.default_rng(request.param)
    base = chance.normal(0, 3, (5, request.param)).astype(np.float32)
    return base, base + chance.normal(0, 0.3, base.shape).astype(np.float32), chance.integers(0, request.param, 5)


def test_likelihoods_are_those_of_a_softmax(logits):
    base, _, tokens = logits
    wanted = -log_softmax(base)[np.arange(5), tokens]
    assert score_alone(base, tokens, threads=2) == pytest.approx(wanted, rel=1e-5)
    assert score_base(base, tokens, threads=2).nll == pytest.approx(wanted, rel=1e-5)


def test_rows_hold_log_probabilities_to_16_bits_down_to_16_nats(logits):
    base, _, tokens = logits
    rows = score_base(base, tokens, threads=2).rows
    assert rows.shape == (5, row_numbers(base.shape[1]))
    truth = log_softmax(base)
    held = decode(rows, base.shape[1])
    near = truth > truth.max(axis=1, keepdims=True) - 16
    assert np.abs(held - truth)[near].max() < 16 / 65535
    assert (held <= truth.max(axis=1, keepdims=True) + 1e-5).all()


def test_divergence_is_that_of_the_definition(logits):
    base, other, tokens = logits
    rows = score_base(base, tokens, threads=1).rows
    found = score_against(other, tokens, rows, threads=2)
    held, said = decode(rows, base.shape[1]).astype(np.float64), log_softmax(other)
    weight = np.where(held > -16, np.exp(held), 0)
    assert found[:, 0] == pytest.approx(-said[np.arange(5), tokens], rel=1e-5)
    assert found[:, 1] == pytest.approx(-held[np.arange(5), tokens], rel=1e-6)
    assert found[:, 2] == pytest.approx((weight * (held - said)).sum(axis=1), rel=1e-3, abs=1e-6)
    assert found[:, 3].tolist() == (base.argmax(axis=1) == other.argmax(axis=1)).tolist()


def test_the_same_logits_do_not_diverge(logits):
    base, _, tokens = logits
    found = score_against(base, tokens, score_base(base, tokens, threads=1).rows, threads=1)
    assert np.abs(found[:, 2]).max() < 1e-4
    assert found[:, 3].all()


def test_a_row_of_equal_logits_is_held_exactly():
    flat = np.zeros((1, 10), np.float32)
    rows = encode(flat, np.log(np.full(1, 10.0)).astype(np.float32))
    assert decode(rows, 10) == pytest.approx(np.full((1, 10), -np.log(10)), rel=1e-6)
