"""Patterns of strangers for names of modules match as `re` does, and none takes for ever."""

import re

import pytest

from ggufkit.checkpoints.name_patterns import matches
from ggufkit.errors import CheckpointError

NAMES = (
    "lm_head",
    "model.layers.0.self_attn.q_proj",
    "model.layers.11.mlp.experts.127.gate_proj",
    "language_model.model.layers.3.mlp.shared_expert.down_proj",
    "",
    "a" * 300,
)
# As llm-compressor, GPTQModel, AutoRound and PEFT write them.
HONEST = (
    "lm_head",
    r".*self_attn.*",
    r".*\.mlp\.experts\.\d+\.(gate|up|gate_up|down)_proj.*",
    r"model\.layers\.(0|1|2|3|4|5|6|7|8|9|10|11)\.mlp\..*",
    r"^(?!.*experts).*_proj$",
    r".*(q|k|v)_proj$",
    r"(?:.*\.)?(?:layers.0.self_attn.q_proj)$",
    r"[^.]+\.layers\.[0-9]{1,3}\..*?_proj",
    r"model[.]layers[.]\d+[]a-z_.]+",
    r"a{1,3}",
    r"a{,3}b?",
    r"{x}|lm_head",
    r"(?i)LM_HEAD",
    r"(?P<block>\d+|[a-z]+)",
    "",
)
ENDLESS = (
    r"(a+)+$",
    r"(a*)*b",
    r"(a|aa)+$",
    r"(?:a|a)*b",
    r"((a{1,9}){1,9}){1,9}b",
    r"(a?){99}" + "a" * 99,
    "a?" * 40 + "a" * 40,
    "(a|aa)" * 40 + "b",
    ".*" * 9 + "b",
    r".*.*.*.*.*b",
    r"(.*)\1\1\1\1b",
    r"(?P<x>a+)(?P=x)+b",
    r"a{100000}{100000}",
    "(" * 5000 + ")" * 5000,
    "(",
    "a" * 20_000,
)


@pytest.mark.parametrize("pattern", HONEST)
def test_honest_patterns_match_as_re_does(pattern: str) -> None:
    for name in NAMES[:-1]:
        assert matches(pattern, name, where="here:") == (re.match(pattern, name) is not None), name


@pytest.mark.parametrize("pattern", ENDLESS)
def test_patterns_without_end_are_refused(pattern: str) -> None:
    with pytest.raises(CheckpointError, match="here:"):
        matches(pattern, NAMES[-1], where="here:")
