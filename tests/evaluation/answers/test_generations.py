"""How long replies agree, and that our own prompt sets can be asked."""

import json

import pytest

from ggufkit.evaluation.answers.asking import Reply
from ggufkit.evaluation.answers.generations import PROMPT_SETS, agreement, read_prompts, side_by_side
from ggufkit.inference import batch_file


def reply(text: str, *tokens: int) -> Reply:
    return Reply(text, tokens, "stop")


@pytest.mark.parametrize(
    ("one", "other", "tokens", "characters", "same"),
    [
        (reply("a b c", 1, 2, 3), reply("a b c", 1, 2, 3), 3, 5, True),
        (reply("a b c", 1, 2, 3), reply("a b d", 1, 2, 4), 2, 4, False),
        (reply("a b c", 1, 2, 3), reply("a", 1), 1, 1, False),
        (reply("", *()), reply("", *()), 0, 0, True),
    ],
)
def test_agreement(one: Reply, other: Reply, tokens: int, characters: int, same: bool):
    found = agreement(one, other)
    assert (found.tokens, found.characters, found.same) == (tokens, characters, same)
    assert found.of_tokens == min(len(one.tokens), len(other.tokens))


@pytest.mark.parametrize("name", PROMPT_SETS)
def test_our_prompt_sets_are_prompts(name: str):
    prompts = read_prompts(name)
    assert len(prompts) >= 10
    assert len({json.dumps(prompt) for prompt in prompts}) == len(prompts)
    for prompt in prompts:
        batch_file.parse(json.dumps(prompt).encode())


def test_prompts_are_shown_by_their_last_message():
    prompts = [{"prompt": "Hi"}, {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}]
    found = side_by_side(prompts, [reply("x", 1), reply("y", 2)], [[reply("x", 1), reply("z", 3)]])
    assert [it.prompt for it in found] == ["Hi", "u"]
    assert [it.replies[0][1].same for it in found] == [True, False]
