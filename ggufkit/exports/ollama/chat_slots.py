"""What a chat template puts around texts: seen by rendering a few conversations, divided into what goes where."""

import contextlib
import functools
import itertools
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.exports.ollama.messages import Message

SHAPES = Path(__file__).parent / "chat_shapes"
_SYSTEM, _USERS, _ANSWER = "Syz0", ("Usq1", "Usq2"), "Anw1"

Jinja = Callable[[Sequence[Message]], str | None]
"""Renders a conversation, with the prompt for an answer; None where the template refuses its roles."""


@dataclass(frozen=True, slots=True)
class Slots:
    """What stands around the texts of a conversation. `between` comes before every user's turn but the first."""

    start: str = ""
    default_system: str = ""
    before_system: str = ""
    after_system: str = ""
    before_user: str = ""
    after_user: str = ""
    before_assistant: str = ""
    after_assistant: str = ""
    between: str = ""
    generation: str = ""


class DoesNotFitError(Exception):
    """What was seen is not of this shape."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a template put around texts: before the first user's, after the last, between others."""

    head: str  # before a user's text, without a system message
    tail: str  # after the last user's text
    to_answer: str  # between a user's text and its answer
    to_user: str  # between an answer and the next user's text
    system_head: str  # before the system message; of these two see `system`
    system_tail: str  # between it and the next user's text
    system: str  # "turn", "first", "last", "ignored" or "refused"


# ---- what is seen


def look(jinja: Jinja) -> Seen:
    """Render short conversations. Raises DoesNotFitError when messages do not come out as they went in."""
    first, second = _USERS
    one = _cut(jinja([Message("user", first)]), [first])
    if one is None:
        raise DoesNotFitError("it refuses a single question")
    turns = [Message("user", first), Message("assistant", _ANSWER), Message("user", second)]
    three = _cut(jinja(turns), [first, _ANSWER, second])
    if three is None:
        raise DoesNotFitError("it refuses a conversation of several turns")
    with_system = jinja([Message("system", _SYSTEM), Message("user", first)])
    system_head = system_tail = ""
    if with_system is None:
        system = "refused"
    elif _SYSTEM not in with_system:
        system = "ignored"
    else:
        cut = _cut(with_system, [_SYSTEM, first])
        longer = jinja([Message("system", _SYSTEM), *turns])
        if cut is None or longer is None:
            raise DoesNotFitError("it refuses a system message in a longer conversation")
        system_head, system_tail, _ = cut
        in_last = longer.find(_SYSTEM) > longer.find(_ANSWER)
        system = "last" if in_last else "turn"
        if not in_last and system_head.startswith(one[0]) and one[0]:
            system = "first"
    return Seen(one[0], three[3], three[1], three[2], system_head, system_tail, system)


def _cut(text: str | None, at: Sequence[str]) -> list[str] | None:
    """Cut a text at some words, each of which it must hold once, in this order."""
    if text is None:
        return None
    parts = []
    for word in at:
        if text.count(word) != 1:
            times = "no" if word not in text else "more than one"
            raise DoesNotFitError(f"a message comes {times} time into what it renders, or in another order")
        before, _, text = text.partition(word)
        parts.append(before)
    return [*parts, text]


# ---- what it may be


@functools.cache
def _families() -> dict[str, dict[str, list[str]]]:
    return tomllib.loads((SHAPES / "families.toml").read_text(encoding="utf-8"))


def candidates(seen: Seen, bos: str, eos: str) -> Iterator[tuple[str, str, Slots]]:
    """Give what may be: the name of a family or "", a skeleton, and what to fill it with; families first."""
    for name, family in _families().items():
        words = {key: [text.replace("EOS", eos).replace("BOS", bos) for text in family[key]] for key in family}
        with contextlib.suppress(DoesNotFitError):
            yield (name, *_divided(seen, words))
    with contextlib.suppress(DoesNotFitError):
        yield ("", *_divided(seen, _words_of(seen)))


def _divided(seen: Seen, words: dict[str, list[str]]) -> tuple[str, Slots]:
    """Divide what was seen by what a family puts around its turns. Raises DoesNotFitError."""
    before_user, after_user = words["user"]
    before_assistant, after_assistant = words["assistant"]
    if seen.to_answer != after_user + before_assistant:
        raise DoesNotFitError
    between = _between(after_assistant, seen.to_user, before_user)
    generation = _after(after_user, seen.tail)
    head = _before(seen.head, before_user)
    slots = Slots(
        start=head,
        before_user=before_user,
        after_user=after_user,
        before_assistant=before_assistant,
        after_assistant=after_assistant,
        between=between,
        generation=generation,
    )
    if seen.system == "ignored":
        return "no_system", slots
    if seen.system == "refused":
        return "system_in_first_user", replace(slots, after_system="\n\n")
    if "system" in words and seen.system in {"turn", "first"}:
        before_system, after_system = words["system"]
        start = seen.system_head
        if before_system:
            start, found, more = seen.system_head.rpartition(before_system)
            if not found:
                raise DoesNotFitError
            before_system += more  # such as the date
        if seen.system_tail != after_system + before_user:
            raise DoesNotFitError
        return "turns", replace(
            slots,
            start=start,
            default_system=_after(start, head),
            before_system=before_system,
            after_system=after_system,
        )
    if "system" in words or seen.system == "turn":
        raise DoesNotFitError
    shape = "system_in_first_user" if seen.system == "first" else "system_in_last_user"
    before_system = _after(head + before_user, seen.system_head)
    return shape, replace(slots, before_system=before_system, after_system=seen.system_tail)


def _words_of(seen: Seen) -> dict[str, list[str]]:
    """Divide what was seen by what its parts have in common, when no family does."""
    heads = [seen.head, seen.to_user, *([seen.system_tail] if seen.system == "turn" else [])]
    before_user = _common_end(heads)
    after_user = common_start([seen.to_answer, seen.tail])
    words = {
        "user": [before_user, after_user],
        "assistant": [_after(after_user, seen.to_answer), _before(seen.to_user, before_user)],
    }
    if seen.system == "turn":
        start = common_start([seen.system_head, _before(seen.head, before_user)])
        words["system"] = [_after(start, seen.system_head), _before(seen.system_tail, before_user)]
    return words


def common_start(texts: Sequence[str]) -> str:
    """Give what all texts begin with."""
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    return "".join(letters[0] for letters in same)


def _common_end(texts: Sequence[str]) -> str:
    return common_start([text[::-1] for text in texts])[::-1]


def _before(text: str, end: str) -> str:
    if not text.endswith(end):
        raise DoesNotFitError
    return text[: len(text) - len(end)]


def _after(start: str, text: str) -> str:
    if not text.startswith(start):
        raise DoesNotFitError
    return text[len(start) :]


def _between(start: str, text: str, end: str) -> str:
    if len(text) < len(start) + len(end):
        raise DoesNotFitError
    return _before(_after(start, text), end)
