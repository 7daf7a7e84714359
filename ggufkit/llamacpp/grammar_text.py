"""Grammars (GBNF) that llama.cpp would never get past: it expands them without looking how far that goes.

`S{3,2}` makes it count down from 2 - 3 without a sign, in ever more memory. A long literal that is repeated is copied
as often. And what may be left out, repeated, lets the same character be read in as many ways, all of which are followed
side by side and compared with each other (src/llama-grammar.cpp). What else is wrong with a grammar it says itself.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ggufkit.errors import InputError

_MOST_ELEMENTS = 1 << 20  # of the rules together, when repetitions are written out
_MOST_WAYS = 64  # of reading the same character
_DEEPEST = 2000  # rules within rules: llama.cpp calls itself for each
_DEEPEST_GROUPS = 500
_WITHOUT_END = 2000  # llama.cpp: from here on a repetition has no upper limit
_SPACE = r"(?:\s|\#[^\r\n]*)*"
_TOKEN = re.compile(
    rf"""(?P<comment>\#[^\r\n]*)
    | (?P<literal>"(?:[^"\\]|\\.)*"?)
    | (?P<characters>\[(?:[^\]\\]|\\.)*\]?)
    | (?P<token>!?<[^>]*>?)
    | (?P<rule>[A-Za-z0-9-]+)(?={_SPACE}::=)
    | (?P<name>[A-Za-z0-9-]+)
    | \{{{_SPACE}(?P<least>\d+){_SPACE}(?:(?P<range>,){_SPACE}(?P<most>\d*){_SPACE})?\}}
    | (?P<mark>::=|[|()*+?.])""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(slots=True)
class _Item:
    """A part of a sequence: characters (`elements` of them), or what a rule says; so often, None: without end."""

    rule: str | None
    elements: int = 1
    least: int = 1
    most: int | None = 1


@dataclass(slots=True)
class _Rules:
    """The alternatives of each rule, each a sequence; groups are rules with numbers for names."""

    of: dict[str, list[list[_Item]]] = field(default_factory=dict)
    ways: dict[str, tuple[int, bool]] = field(default_factory=dict)  # and whether it can be left out

    def count_ways(self) -> int:
        """Count in how many ways each rule can begin with the same character; return how deep rules lie in rules."""
        deepest = 0
        for first in self.of:
            path = [(first, self._named(first))] if first not in self.ways else []
            while path:
                deepest = max(deepest, len(path))
                name, inner = path[-1]
                self.ways.setdefault(name, (1, False))  # for one that begins with itself, which llama.cpp refuses
                following = next((each for each in inner if each in self.of and each not in self.ways), None)
                if following is not None:
                    path.append((following, self._named(following)))
                    continue
                found = [self._ways_of(items) for items in self.of[name]]
                self.ways[name] = max((ways for ways, _ in found), default=1), any(empty for _, empty in found)
                path.pop()
        return deepest

    def _named(self, name: str) -> Iterator[str]:
        return (item.rule for items in self.of[name] for item in items if item.rule is not None)

    def _ways_of(self, items: Sequence[_Item]) -> tuple[int, bool]:
        times: dict[str, int] = {}
        most = 1
        for item in items:
            ways, can_be_empty = (1, False) if item.rule is None else self.ways.get(item.rule, (1, False))
            repeated = (item.most or 1) if can_be_empty else 1
            if item.rule is not None:
                times[item.rule] = times.get(item.rule, 0) + repeated
                most = max(most, times[item.rule] * ways)
            if not (can_be_empty or item.least == 0):
                return most, False
        return most, True


def check_grammar(text: str) -> None:
    """Refuse a grammar, in GBNF, that llama.cpp would not get past.

    Raises:
        InputError: saying what of it.
    """
    if fault := fault_of(text):
        raise InputError(f"the grammar {fault}")


def fault_of(text: str) -> str | None:
    """Say why a grammar must not be given to llama.cpp; None where it may."""
    if "\0" in text:
        text = text.partition("\0")[0]  # a text of C ends there
    rules, elements = _Rules(), 0
    if _is_deep(text):
        return f"is nested deeper than {_DEEPEST_GROUPS} levels"
    for item in _items(text, rules.of):
        if item.most is not None and item.most < item.least:
            return f"repeats something at least {item.least} and at most {item.most} times"
        elements += item.elements * max(item.least, min(item.most or 1, _WITHOUT_END), 1)
        if elements > _MOST_ELEMENTS:
            return f"has more than {_MOST_ELEMENTS:,} elements when its repetitions are written out"
    if rules.count_ways() > _DEEPEST:
        return f"has more than {_DEEPEST:,} rules within rules"
    ways = max((ways for ways, _ in rules.ways.values()), default=1)
    return (
        f"can read the same character in {ways:,} ways: it repeats what may be left out" if ways > _MOST_WAYS else None
    )


def _is_deep(text: str) -> bool:
    depth = 0
    for found in _TOKEN.finditer(text):
        depth += (found[0] == "(") - (found[0] == ")")
        if depth > _DEEPEST_GROUPS:
            return True
    return False


def _items(text: str, rules: dict[str, list[list[_Item]]]) -> Iterator[_Item]:
    """Yield every part of every sequence when it is complete, and collect the rules."""
    open_groups: list[tuple[str, list[_Item]]] = []  # the rules around the current one, and where they go on
    name = ""
    sequence: list[_Item] = []
    last: _Item | None = None  # what a repetition would be about
    for found in _TOKEN.finditer(text):
        kind, word = found.lastgroup, found[0]
        if kind == "comment":
            continue
        if kind in {"least", "range", "most"} or word in {"*", "+", "?"}:
            if last is not None:
                _repeat(last, found)
            continue
        if last is not None:
            yield last
            last = None
        if kind == "rule":
            name, sequence = word, []
            rules.setdefault(name, []).append(sequence)
        elif word == "|":
            sequence = []
            rules.setdefault(name, []).append(sequence)
        elif word == "(":
            inner = f"({len(rules)}"
            sequence.append(_Item(inner))
            open_groups.append((name, sequence))
            name, sequence = inner, []
            rules[name] = [sequence]
        elif word == ")" and open_groups:
            name, sequence = open_groups.pop()
            last = sequence[-1]
        elif kind != "mark" or word == ".":
            last = _Item(word if kind == "name" else None, max(1, len(word) - 2) if kind != "name" else 1)
            sequence.append(last)
    if last is not None:
        yield last


_MARKS: Mapping[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


def _repeat(item: _Item, found: re.Match[str]) -> None:
    """Apply a repetition; several of them multiply."""
    if found["least"] is None:
        least, most = _MARKS[found[0]]
    else:
        least = int(found["least"][:20])
        most = least if found["range"] is None else int(found["most"][:20]) if found["most"] else None
    if most is not None and most < least:
        item.least, item.most = least, most
        return
    item.elements *= max(1, item.least)
    item.least = min(item.least * least, 1 << 40)
    item.most = None if most is None or item.most is None or most > _WITHOUT_END else min(item.most * most, 1 << 40)
