"""The texts that types are chosen with: sections of what is given, dealt to three uses that share none of them.

Calibration is for the importance matrix, probing for measuring how much tensors matter, choosing for the candidates'
divergence, which none of the other steps has seen. Every file is dealt by itself, so that each use sees each domain.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from ggufkit.errors import InputError

SECTION = 6000  # characters: about three chunks, so that a chunk is mostly text that hangs together


class Use(StrEnum):
    """What a section is for."""

    CALIBRATION = "calibration"
    PROBING = "probing"
    CHOOSING = "choosing"


_SHARES = {Use.CALIBRATION: 10, Use.PROBING: 3, Use.CHOOSING: 7}


@dataclass(frozen=True, slots=True)
class Document:
    """A text as it was given: its name, its passages in their order, and whether they hold special tokens (chats)."""

    name: str
    passages: tuple[str, ...]
    special: bool = False


@dataclass(frozen=True, slots=True)
class Dealt:
    """The text of each use."""

    calibration: str
    probing: str
    choosing: str
    special: bool = False

    def sha256(self, use: Use) -> str:
        """Hash the text of a use."""
        return hashlib.sha256(str(getattr(self, use.value)).encode()).hexdigest()


def deal(documents: Sequence[Document], uses: Sequence[Use], *, seed: int = 0) -> Dealt:
    """Cut documents into sections and deal these to `uses`; the same seed deals in the same way.

    Raises:
        InputError: there are too few sections for all uses.
    """
    dealt: dict[Use, list[str]] = {use: [] for use in Use}
    for document in documents:
        sections = _sections(document)
        random.Random(f"{seed} {document.name}").shuffle(sections)  # noqa: S311 - an order, not a secret
        debts = dict.fromkeys(uses, 0.0)
        total = sum(_SHARES[use] for use in uses)
        for section in sections:
            for use in uses:
                debts[use] += len(section) * _SHARES[use] / total
            owed = max(uses, key=lambda use: (debts[use], _SHARES[use]))
            debts[owed] -= len(section)
            dealt[owed].append(section)
    if empty := [use.value for use in uses if not dealt[use]]:
        raise InputError(
            f"there is too little text: nothing is left for {' and '.join(empty)}",
            hint="give more with -f; a few hundred kilobytes are enough",
        )
    joined = {use: _mixed(sections, seed) for use, sections in dealt.items()}
    special = any(document.special for document in documents)
    return Dealt(joined[Use.CALIBRATION], joined[Use.PROBING], joined[Use.CHOOSING], special)


def joined(first: Dealt, second: Dealt) -> Dealt:
    """Join what was dealt separately, as with texts of their own for development."""
    return Dealt(
        _join(first.calibration, second.calibration),
        _join(first.probing, second.probing),
        _join(first.choosing, second.choosing),
        first.special or second.special,
    )


def _join(one: str, other: str) -> str:
    return f"{one}\n\n{other}" if one and other else one or other


def _mixed(sections: Sequence[str], seed: int) -> str:
    """Put the sections of all documents in one order, so that the first chunks hold some of every domain."""
    order = sorted(sections)
    random.Random(seed).shuffle(order)  # noqa: S311 - an order, not a secret
    return "\n\n".join(order)


def _sections(document: Document) -> list[str]:
    """Join passages that follow each other to sections of about equal length, at least twenty where there can be."""
    whole = sum(len(passage) for passage in document.passages)
    size = max(1, min(SECTION, whole // 20))
    sections: list[str] = []
    current: list[str] = []
    length = 0
    for passage in document.passages:
        current.append(passage.strip("\n"))
        length += len(passage)
        if length >= size:
            sections.append("\n\n".join(current))
            current, length = [], 0
    return [*sections, "\n\n".join(current)] if current else sections
