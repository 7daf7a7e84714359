"""The same prompts answered by the base and by each model, greedily: how long they agree, and where they part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufkit.errors import InputError
from ggufkit.evaluation.answers.asking import Reply, prompt_of, read_lines

PROMPT_SETS = ("short", "long")  # our own: questions over abilities and languages; long answers


@dataclass(frozen=True, slots=True)
class Agreement:
    """How long two replies are the same: tokens of the shorter one, and characters; `same` from end to end."""

    tokens: int
    of_tokens: int
    characters: int
    same: bool


@dataclass(frozen=True, slots=True)
class SideBySide:
    """One prompt: the base's reply, and each model's with its agreement."""

    prompt: str
    base: Reply
    replies: Sequence[tuple[Reply, Agreement]]


def read_prompts(name: str) -> list[dict[str, Any]]:
    """Read a prompt set of ours by name, or a file of texts or JSONL.

    Raises:
        InputError: there is no such file, or it holds no prompts.
    """
    path = Path(name)
    if name in PROMPT_SETS and not path.exists():
        from importlib.resources import files  # here, for most evaluations have no prompts

        path = Path(str(files("ggufkit.evaluation.answers") / "prompt_sets" / f"{name}.jsonl"))
    elif not path.is_file():
        raise InputError(f"no such file of prompts: {name}", hint=f"a file, or one of {', '.join(PROMPT_SETS)}")
    return [prompt_of(line, path, number) for number, line in enumerate(read_lines(path), 1)]


def side_by_side(
    prompts: Sequence[Mapping[str, Any]], base: Sequence[Reply], others: Sequence[Sequence[Reply]]
) -> list[SideBySide]:
    """Lay the replies to each prompt side by side."""
    return [
        SideBySide(
            _text_of(prompt),
            base[number],
            [(replies[number], agreement(base[number], replies[number])) for replies in others],
        )
        for number, prompt in enumerate(prompts)
    ]


def agreement(one: Reply, other: Reply) -> Agreement:
    """Say how long two replies are the same."""
    tokens = _common(one.tokens, other.tokens)
    return Agreement(
        tokens,
        min(len(one.tokens), len(other.tokens)),
        _common(one.text, other.text),
        one.text == other.text and one.finish_reason == other.finish_reason and not (one.error or other.error),
    )


def _common(one: Sequence[Any], other: Sequence[Any]) -> int:
    shorter = min(len(one), len(other))
    return next((place for place in range(shorter) if one[place] != other[place]), shorter)


def _text_of(prompt: Mapping[str, Any]) -> str:
    if "prompt" in prompt:
        return str(prompt["prompt"])
    last = prompt["messages"][-1] if prompt["messages"] else {}
    return str(last.get("content", "") if isinstance(last, dict) else last)
