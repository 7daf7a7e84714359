"""A model's Jinja chat template as a Go template, known by what it renders and not by how it is written.

A few short conversations show what a template puts around each turn. With that the skeletons in `chat_shapes/` are
filled, first as the families in `families.toml` divide it, then by what was seen alone; the first that gives what the
Jinja template gives, for every probe, is taken. If none does, there is no Go template, and the first difference says
why.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ggufkit.errors import InputError
from ggufkit.exports.go_template import GoTemplateError
from ggufkit.exports.go_template.lexer import quoted
from ggufkit.exports.ollama.chat import render
from ggufkit.exports.ollama.chat_slots import (
    SHAPES,
    DoesNotFitError,
    Jinja,
    Seen,
    Slots,
    candidates,
    common_start,
    look,
)
from ggufkit.exports.ollama.messages import Message
from ggufkit.exports.ollama.probes import PROBES

_SLOT = re.compile(r"\{\{ @(\w+)@ \}\}")
_NOTHING = re.compile(r"\{\{-? if [^{}]*\}\}\{\{ end \}\}\n?")
_LATER = re.compile(r"\{\{- \$later :?= \w+ \}\}\n")


@dataclass(frozen=True, slots=True)
class GoChatTemplate:
    """A Go template, the name of its kind ("" when no family has it), and what it does not do."""

    source: str
    family: str
    warnings: tuple[str, ...]


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
        seen = look(without_bos)
    except DoesNotFitError as error:
        raise InputError(f"the chat template has no Go template: {error}", hint=_INSTEAD) from error
    problem = ""
    for family, shape, slots in candidates(seen, bos, eos):
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
    return (SHAPES / f"{shape}.gotmpl").read_text(encoding="utf-8")


# ---- whether it is


def _first_difference(jinja: Jinja, source: str, seen: Seen) -> str:
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
            at = len(common_start([wanted, found]))
            return (
                f"of a conversation of {roles} it makes …{wanted[max(0, at - 20) : at + 30]!r}…,"
                f" and the Go template …{found[max(0, at - 20) : at + 30]!r}…"
            )
    return ""


def _warnings(jinja: Jinja, source: str, seen: Seen) -> Iterator[str]:
    if seen.system == "refused":
        yield "the chat template refuses system messages; the Go template puts them before the first question"
    if seen.system == "ignored":
        yield "the chat template ignores system messages, and so does the Go template"
    if seen.to_answer.startswith(seen.tail) and seen.to_answer.strip() != seen.tail.strip():
        yield "the chat template does not begin the answer: the model has to write what stands before it"
    spaced = [Message("user", " Usq1 \n")]
    if jinja(spaced) != render(source, spaced):
        yield "the chat template trims blanks around messages, which a Go template cannot"
    thought = [
        Message("user", "Usq1"),
        Message("assistant", "<think>\nThz1\n</think>\n\nAnw1"),
        Message("user", "Usq2"),
    ]
    if jinja(thought) != render(source, thought):
        yield "the chat template takes the reasoning out of earlier answers, which the Go template does not"
