"""Log-probabilities, against a softmax written out."""

import math

import numpy as np
import pytest

from ggufkit.inference.engine import Engine
from ggufkit.inference.options import SamplingOptions
from ggufkit.inference.scores import as_json, score


def test_a_score_is_the_logarithm_of_softmax() -> None:
    logits = np.array([1.0, 3.0, 2.0, 3.0], np.float32)
    total = sum(math.exp(value) for value in logits)
    found = score(logits, 2, 3)
    assert found.logprob == pytest.approx(math.log(math.exp(2) / total))
    assert [token for token, _ in found.top] == [1, 3, 2]  # equal ones by their number
    assert found.top[0][1] == pytest.approx(3 - math.log(total))
    assert score(logits, 0, 0).top == ()
    assert len(score(logits, 0, 99).top) == 4


def test_large_logits_do_not_overflow_and_json_has_no_infinity() -> None:
    found = score(np.array([-np.inf, 1e4], np.float32), 1, 2)
    assert found.logprob == 0
    [named] = as_json([found], lambda token: bytes([0xF0 + token]))
    assert named["top"][1] == {"token": 0, "text": "\ufffd", "bytes": [0xF0], "logprob": -9999.0}


@pytest.mark.engine
def test_scores_are_those_of_the_logits_whatever_was_sampled(engine: Engine) -> None:
    prompt = engine.tokenize("hello world")
    sampling = SamplingOptions(temperature=2.0, seed=3, repeat_penalty=1.5)
    result = engine.generate(prompt, sampling, max_tokens=4, top_scores=2).result
    assert result.scores is not None
    tokens = [each.token for each in result.scores]
    logits = engine.logits([*prompt, *tokens])[len(prompt) - 1 : -1]
    for row, each in zip(logits, result.scores, strict=True):
        expected = score(row, each.token, 2)
        assert each.logprob == pytest.approx(expected.logprob, abs=1e-2)
        assert [token for token, _ in each.top] == [token for token, _ in expected.top]
