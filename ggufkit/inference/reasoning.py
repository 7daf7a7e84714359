"""What a model thinks before it answers: how its template marks that, and how to ask for it or do without.

Nothing is looked up by the name of a model. A template that writes the reasoning of earlier turns shows its markers
when it renders a sample; else they stand in its source, else they are tokens of the vocabulary. Switches are the
variables that templates read; where there is none, the beginning of the reply is written for the model.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ggufkit.errors import InputError
from ggufkit.inference.templates import ChatTemplate, Message

_QUESTION, _THOUGHT, _ANSWER = "QUESTIONTEXT", "THOUGHTTEXT", "ANSWERTEXT"  # no template changes or trims these
_LAST_TAG = re.compile(r"(?:<[^<>\s]+>\w+<[^<>\s]+>|<[^<>\s]+>|\[[^\[\]\s]+\]|◁[^◁▷]+▷)\Z")
_FIRST_TAG = re.compile(r"\s*(<[^<>\s]+>|\[[^\[\]\s]+\]|◁[^◁▷]+▷)")
_ABOUT = r"(?:think|thought|reason|analysis)"
# The shapes of pairs: how the end follows from the start.
_PAIRS: tuple[tuple[str, str], ...] = (
    (rf"<([\w:|-]*{_ABOUT}\w*)>", "</{0}>"),
    (rf"\[(\w*{_ABOUT}\w*)\]", "[/{0}]"),
    (rf"◁(\w*{_ABOUT}\w*)▷", "◁/{0}▷"),
    (rf"<\|(?:start|begin)_((?:of_)?{_ABOUT}\w*)\|>", "<|end_{0}|>"),
    (rf"<\|(\w+)>{_ABOUT}", "<{0}|>"),
)
_USUAL = (
    *(("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<|START_THINKING|>", "<|END_THINKING|>")),
    *(("<seed:think>", "</seed:think>"), ("<|begin_of_thought|>", "<|end_of_thought|>"), ("◁think▷", "◁/think▷")),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
)
_SWITCHES: dict[str, tuple[Any, Any]] = {  # variable: on, off
    "enable_thinking": (True, False),
    "thinking": (True, False),
    "enable_reasoning": (True, False),
    "reasoning": (True, False),
    "add_thoughts": (True, False),
    "skip_thinking": (False, True),
    "thinking_budget": (-1, 0),
}
# Variables that take words: the first of these that the template compares them with is taken.
_WORD_SWITCHES = ("thinking_mode", "thinking_option", "reasoning_effort", "thinking_effort")
_ON_WORDS, _OFF_WORDS = ("enabled", "on", "high"), ("disabled", "off", "none", "no_think", "minimal")


class Reasoning(StrEnum):
    """Whether the model should think before it answers; AUTO leaves it to the template."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Markers:
    """How reasoning is set apart from the answer.

    Attributes:
        start: what begins the reasoning.
        end: what ends it.
        header: what begins a message of the model, where reasoning and answer are messages of their own; else empty.
        opener: what begins the answer, after the header; else empty.
        known: whether template or vocabulary hold them; else they are only the usual ones.
        everywhere: whether they count wherever they stand, because only control tokens write them.
    """

    start: str = "<think>"
    end: str = "</think>"
    header: str = ""
    opener: str = ""
    known: bool = False
    everywhere: bool = False

    @property
    def texts(self) -> tuple[str, ...]:
        """Return all that may stand in a reply."""
        return tuple(text for text in (self.start, self.end, self.header, self.opener) if text)

    def is_open(self, prompt: str) -> bool:
        """Tell whether a prompt ends within reasoning, so that the reply begins with it."""
        return prompt.rstrip().endswith(self.start)


@dataclass(frozen=True, slots=True)
class Switch:
    """How a wish is told to the model: values for the template, and the beginning of its reply.

    `works` is False when the model knows no reasoning, or none that could be switched on.
    """

    variables: dict[str, Any]
    prefill: str = ""
    works: bool = True


def find_markers(template: ChatTemplate, has_control: Callable[[str], bool]) -> Markers:
    """Find out how a model marks its reasoning; `has_control` tells whether a text holds control tokens."""
    found = _rendered(template) or _spelled(template.source)
    if found is None:
        known = next(((start, end) for start, end in _USUAL if has_control(start) and has_control(end)), None)
        found = Markers(*known, known=True) if known else Markers()
    everywhere = found.known and has_control(found.start)
    return Markers(found.start, found.end, found.header, found.opener, found.known, everywhere)


def switch(template: ChatTemplate, markers: Markers, wish: Reasoning) -> Switch:
    """Return how to have a model think or not."""
    if wish is Reasoning.AUTO:
        return Switch({})
    on, off = _values(template)
    variables = on if wish is Reasoning.ON else off
    prompts = [_prompt(template, values) for values in (variables, off if wish is Reasoning.ON else on)]
    obeyed = prompts[0] != prompts[1]
    is_open = markers.is_open(prompts[0])
    if wish is Reasoning.ON:
        if obeyed or is_open:
            return Switch(variables)
        return Switch(variables, f"{markers.start}\n") if markers.known else Switch({}, works=False)
    if is_open:
        return Switch(variables, f"\n\n{_closing(markers)}")
    if obeyed or not markers.known:
        return Switch(variables)
    return Switch(variables, f"{markers.start}\n\n{_closing(markers)}" if not markers.header else markers.opener)


def _closing(markers: Markers) -> str:
    return f"{markers.end}{markers.header}{markers.opener}" + ("" if markers.header else "\n\n")


def _values(template: ChatTemplate) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the values that switch reasoning on, and those that switch it off, for the variables of a template."""
    read = template.variables()
    on = {name: values[0] for name, values in _SWITCHES.items() if name in read}
    off = {name: values[1] for name, values in _SWITCHES.items() if name in read}
    for name in _WORD_SWITCHES:
        words = template.compared_with(name) if name in read else []
        for values, wanted in ((on, _ON_WORDS), (off, _OFF_WORDS)):
            if word := next((word for word in wanted if word in words), None):
                values[name] = word
    return on, off


def _prompt(template: ChatTemplate, variables: dict[str, Any]) -> str:
    try:
        return template.render([Message("user", _QUESTION)], variables=variables)
    except InputError:
        return ""


def _rendered(template: ChatTemplate) -> Markers | None:
    """Have the template write a reply with reasoning, and look at what stands around it."""
    question = Message("user", _QUESTION)
    try:
        prompt = template.render([question])
        text = template.render([question, Message("assistant", _ANSWER, _THOUGHT)], add_generation_prompt=False)
    except InputError:
        return None
    before, thought, after = text.partition(_THOUGHT)
    between, answer, _ = after.partition(_ANSWER)
    if not (thought and answer):
        return None
    before, end = before.rstrip(), between.strip()
    prompt = prompt.rstrip()
    own = before.removeprefix(prompt).strip() if before.startswith(prompt) else ""
    written = prompt.removeprefix(before).strip() if prompt.startswith(before) else ""
    tag = _LAST_TAG.search(before)
    start = own or written or (tag[0] if tag else "")
    if not start or not end:
        return None
    header, opener = _answer_header(prompt, end) if own else ("", "")
    if header:
        end = end[: end.index(header)].strip()
    elif (first := _FIRST_TAG.match(end)) and re.search(_ABOUT, first[1], re.IGNORECASE):
        end = first[1]
    return Markers(start, end, header, opener, known=True)


def _answer_header(prompt: str, end: str) -> tuple[str, str]:
    """Return the longest ending of the prompt that also stands within the end, and what follows it there."""
    for length in range(min(len(prompt), len(end)), 2, -1):
        tail = prompt[-length:]
        if tail[0] in "<[" and tail in end[1:]:
            return tail, end.partition(tail)[2].strip()
    return "", ""


def _spelled(source: str) -> Markers | None:
    """Look for a pair of markers in a template's source."""
    for pattern, closing in _PAIRS:
        for found in re.finditer(pattern, source, re.IGNORECASE):
            start, end = found[0], closing.format(found[1])
            if found[0].startswith("<|START"):
                end = end.replace("end", "END")
            if end in source:
                return Markers(start, end, known=True)
    return None


class Splitter:
    """Tells reasoning from answer while a reply comes in pieces; what may be the beginning of a marker is held back."""

    def __init__(self, markers: Markers, *, thinking: bool) -> None:
        """`thinking`: the prompt ended within the reasoning already."""
        self._markers = markers
        self._thinking = thinking
        self._beginning = not thinking  # nothing but white space and headers so far: a marker may come
        self._fresh = thinking  # white space after a marker belongs to it
        self._held = ""

    @property
    def thinking(self) -> bool:
        """Tell whether the reply is within its reasoning now."""
        return self._thinking

    def feed(self, text: str) -> Iterator[tuple[str, bool]]:
        """Yield parts of the reply, each with whether it is reasoning."""
        self._held += text
        while (found := self._next_marker()) is not None:
            at, marker = found
            if not self._beginning:  # at the beginning it is white space only
                yield from self._emit(self._held[:at])
            self._held = self._held[at + len(marker) :]
            self._pass(marker)
        keep = self._undecided()
        if keep < len(self._held):
            ready = self._held[: len(self._held) - keep]
            self._held = self._held[len(ready) :]
            yield from self._emit(ready)

    def finish(self) -> Iterator[tuple[str, bool]]:
        """Yield what was held back, now that nothing more comes."""
        rest, self._held = self._held, ""
        yield from self._emit(rest)

    def _literals(self) -> tuple[str, ...]:
        """Return the markers that would mean something here."""
        marks = self._markers
        if self._thinking:
            return (marks.end,)
        if self._beginning or marks.everywhere:
            texts = (marks.start, marks.header, marks.opener, *((marks.end,) if marks.everywhere else ()))
            return tuple(text for text in texts if text)
        return ()

    def _next_marker(self) -> tuple[int, str] | None:
        if self._beginning:
            blank = len(self._held) - len(self._held.lstrip())
            return next(((blank, text) for text in self._literals() if self._held.startswith(text, blank)), None)
        found = [(at, text) for text in self._literals() if (at := self._held.find(text)) >= 0]
        return min(found, default=None)

    def _undecided(self) -> int:
        """Return how many characters at the end of what is held may still become a marker."""
        if self._beginning:
            rest = self._held.lstrip()
            return len(self._held) if any(text.startswith(rest) for text in self._literals()) else 0
        longest = max(map(len, self._literals()), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(text.startswith(self._held[-length:]) for text in self._literals()):
                return length
        return 0

    def _pass(self, marker: str) -> None:
        marks = self._markers
        self._thinking = marker == marks.start
        self._beginning = bool(marks.header) and marker in (marks.end, marks.header)
        self._fresh = True

    def _emit(self, text: str) -> Iterator[tuple[str, bool]]:
        text = text.lstrip() if self._fresh else text
        if text:
            self._beginning = self._fresh = False
            yield text, self._thinking
