"""A model's Jinja chat template as a Go template, known by what it renders and not by how it is written.

A few short conversations show what a template puts around each turn. With that the skeletons in `chat_shapes/` are
filled, first as the families in `families.toml` divide it, then by what was seen alone; the first that gives what the
Jinja template gives, for every probe, is taken. If none does, there is no Go template, and the first difference says
why.
"""

import contextlib
import functools
import itertools
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.errors import InputError
from ggufkit.exports.go_template import GoTemplateError
from ggufkit.exports.go_template.lexer import quoted
from ggufkit.exports.ollama.chat import render
from ggufkit.exports.ollama.messages import Message
from ggufkit.exports.ollama.probes import PROBES

_SHAPES = Path(__file__).parent / "chat_shapes"
_SYSTEM, _USERS, _ANSWERS = "Syz0", ("Usq1", "Usq2", "Usq3"), ("Anw1", "Anw2")
_SLOT = re.compile(r"\{\{ @(\w+)@ \}\}")
_NOTHING = re.compile(r"\{\{-? if [^{}]*\}\}\{\{ end \}\}\n?")
_LATER = re.compile(r"\{\{- \$later :?= \w+ \}\}\n")

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


@dataclass(frozen=True, slots=True)
class GoChatTemplate:
    """A Go template, the name of its kind ("" when no family has it), and what it does not do."""

    source: str
    family: str
    warnings: tuple[str, ...]


class _DoesNotFitError(Exception):
    """What was seen is not of this shape."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a template put around texts: before the first user's, after the last, between others."""

    head: str  # before a user's text, without a system message
    tail: str  # after the last user's text
    to_answer: str  # between a user's text and its answer
    to_user: str  # between an answer and the next user's text
    system_head: str  # before the system message; of these two see `system`
    system_tail: str  # between it and the next user's text
    system: str  # "turn", "first", "last", "ignored" or "refused"


def convert(jinja: Jinja, *, bos: str = "", eos: str = "", other_day: Jinja | None = None) -> GoChatTemplate:
    """Find a Go template that renders what a Jinja template does.

    `bos` is what the tokenizer puts before every text by itself, and so must not be written: empty when it puts none.
    `other_day` is the same template on another day.

    Raises:
        InputError: there is none, naming the first difference; or the Jinja template fails.
    """

    def without_bos(messages: Sequence[Message]) -> str | None:
        text = jinja(messages)
        return None if text is None else text.removeprefix(bos)

    try:
        seen = _look(without_bos)
    except _DoesNotFitError as error:
        raise InputError(f"the chat template has no Go template: {error}", hint=_INSTEAD) from error
    problem = ""
    for family, shape, slots in _candidates(seen, bos, eos):
        source = filled(shape, slots)
        difference = _first_difference(without_bos, source, seen)
        if not difference:
            warnings = [*_warnings(without_bos, source, seen)]
            if other_day and other_day(PROBES[0]) != jinja(PROBES[0]):
                warnings.append("the chat template writes the date; the Go template will go on to write today's")
            return GoChatTemplate(source, family, tuple(warnings))
        problem = problem or difference
    raise InputError(f"the chat template has no Go template: {problem}", hint=_INSTEAD)


_INSTEAD = "leave out --template go: Ollama since May 2026 uses the model's own template"


def filled(shape: str, slots: Slots) -> str:
    """Fill a skeleton; what stays empty leaves nothing behind."""
    text = _skeleton(shape)

    def fill(found: re.Match[str]) -> str:
        value: str = getattr(slots, found[1])
        return f"{{{{ {quoted(value)} }}}}" if value else ""

    text = _NOTHING.sub("", _SLOT.sub(fill, text))
    if "if $later" not in text and "if not $later" not in text:
        text = _LATER.sub("", text)
    return text.strip()


@functools.cache
def _skeleton(shape: str) -> str:
    return (_SHAPES / f"{shape}.gotmpl").read_text(encoding="utf-8")


@functools.cache
def _families() -> dict[str, dict[str, list[str]]]:
    return tomllib.loads((_SHAPES / "families.toml").read_text(encoding="utf-8"))


# ---- what is seen


def _look(jinja: Jinja) -> _Seen:
    first, second = _USERS[:2]
    one = _cut(jinja([Message("user", first)]), [first])
    if one is None:
        raise _DoesNotFitError("it refuses a single question")
    turns = [Message("user", first), Message("assistant", _ANSWERS[0]), Message("user", second)]
    three = _cut(jinja(turns), [first, _ANSWERS[0], second])
    if three is None:
        raise _DoesNotFitError("it refuses a conversation of several turns")
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
            raise _DoesNotFitError("it refuses a system message in a longer conversation")
        system_head, system_tail, _ = cut
        in_last = longer.find(_SYSTEM) > longer.find(_ANSWERS[0])
        system = "last" if in_last else "turn"
        if not in_last and system_head.startswith(one[0]) and one[0]:
            system = "first"
    return _Seen(one[0], three[3], three[1], three[2], system_head, system_tail, system)


def _cut(text: str | None, at: Sequence[str]) -> list[str] | None:
    """Cut a text at some words, each of which it must hold once, in this order."""
    if text is None:
        return None
    parts = []
    for word in at:
        if text.count(word) != 1:
            times = "no" if word not in text else "more than one"
            raise _DoesNotFitError(f"a message comes {times} time into what it renders, or in another order")
        before, _, text = text.partition(word)
        parts.append(before)
    return [*parts, text]


# ---- what it may be


def _candidates(seen: _Seen, bos: str, eos: str) -> Iterator[tuple[str, str, Slots]]:
    for name, family in _families().items():
        words = {key: [text.replace("EOS", eos).replace("BOS", bos) for text in family[key]] for key in family}
        with contextlib.suppress(_DoesNotFitError):
            yield (name, *_divided(seen, words))
    with contextlib.suppress(_DoesNotFitError):
        yield ("", *_divided(seen, _words_of(seen)))


def _divided(seen: _Seen, words: dict[str, list[str]]) -> tuple[str, Slots]:
    """Divide what was seen by what a family puts around its turns. Raises _DoesNotFitError."""
    before_user, after_user = words["user"]
    before_assistant, after_assistant = words["assistant"]
    if seen.to_answer != after_user + before_assistant:
        raise _DoesNotFitError
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
                raise _DoesNotFitError
            before_system += more  # such as the date
        if seen.system_tail != after_system + before_user:
            raise _DoesNotFitError
        return "turns", replace(
            slots,
            start=start,
            default_system=_after(start, head),
            before_system=before_system,
            after_system=after_system,
        )
    if "system" in words or seen.system == "turn":
        raise _DoesNotFitError
    shape = "system_in_first_user" if seen.system == "first" else "system_in_last_user"
    before_system = _after(head + before_user, seen.system_head)
    return shape, replace(slots, before_system=before_system, after_system=seen.system_tail)


def _words_of(seen: _Seen) -> dict[str, list[str]]:
    """Divide what was seen by what its parts have in common, when no family does."""
    heads = [seen.head, seen.to_user, *([seen.system_tail] if seen.system == "turn" else [])]
    before_user = _common_end(heads)
    after_user = _common_start([seen.to_answer, seen.tail])
    words = {
        "user": [before_user, after_user],
        "assistant": [_after(after_user, seen.to_answer), _before(seen.to_user, before_user)],
    }
    if seen.system == "turn":
        start = _common_start([seen.system_head, _before(seen.head, before_user)])
        words["system"] = [_after(start, seen.system_head), _before(seen.system_tail, before_user)]
    return words


def _common_start(texts: Sequence[str]) -> str:
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    return "".join(letters[0] for letters in same)


def _common_end(texts: Sequence[str]) -> str:
    return _common_start([text[::-1] for text in texts])[::-1]


def _before(text: str, end: str) -> str:
    if not text.endswith(end):
        raise _DoesNotFitError
    return text[: len(text) - len(end)]


def _after(start: str, text: str) -> str:
    if not text.startswith(start):
        raise _DoesNotFitError
    return text[len(start) :]


def _between(start: str, text: str, end: str) -> str:
    if len(text) < len(start) + len(end):
        raise _DoesNotFitError
    return _before(_after(start, text), end)


# ---- whether it is


def _first_difference(jinja: Jinja, source: str, seen: _Seen) -> str:
    """Compare two templates on all probes; say where they differ first, in one line."""
    for probe in PROBES:
        if seen.system == "refused" and probe[0].role == "system":
            continue
        wanted = jinja(probe)
        roles = ", ".join(message.role for message in probe)
        if wanted is None:
            return f"it refuses a conversation of {roles}"
        try:
            found = render(source, probe)
        except GoTemplateError as error:
            return f"the Go template fails: {error}"
        if found != wanted:
            at = len(_common_start([wanted, found]))
            return (
                f"of a conversation of {roles} it makes …{wanted[max(0, at - 20) : at + 30]!r}…,"
                f" and the Go template …{found[max(0, at - 20) : at + 30]!r}…"
            )
    return ""


def _warnings(jinja: Jinja, source: str, seen: _Seen) -> Iterator[str]:
    if seen.system == "refused":
        yield "the chat template refuses system messages; the Go template puts them before the first question"
    if seen.system == "ignored":
        yield "the chat template ignores system messages, and so does the Go template"
    spaced = [Message("user", " Usq1 \n")]
    if jinja(spaced) != render(source, spaced):
        yield "the chat template trims blanks around messages, which a Go template cannot"
    thought = [
        Message("user", _USERS[0]),
        Message("assistant", f"<think>\n{_USERS[2]}\n</think>\n\n{_ANSWERS[0]}"),
        Message("user", _USERS[1]),
    ]
    if jinja(thought) != render(source, thought):
        yield "the chat template takes the reasoning out of earlier answers, which the Go template does not"
