"""The text that is read: files, each a domain of its own, cut into chunks of one length."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import InputError
from ggufkit.evaluation.names import told_apart

DEFAULT_CHUNKS = 32
DEFAULT_LENGTH = 512
_PIECE = 1 << 20  # characters


@dataclass(frozen=True, slots=True)
class Domain:
    """One text: its name (the file's), what it is, and how much of it is read. `chunks` of `available` are."""

    name: str
    path: Path
    sha256: str
    bytes: int
    tokens: int
    chunks: int
    available: int


@dataclass(frozen=True, slots=True)
class Chunks:
    """The tokens to read, [n_chunks][length], all of a domain one after the other, in the order of `domains`."""

    tokens: tuple[tuple[int, ...], ...]
    length: int
    vocabulary_size: int
    domains: tuple[Domain, ...]

    @property
    def scored(self) -> int:
        """Tokens of a chunk that are predicted, those behind the middle."""
        return self.length - 1 - self.length // 2

    def of_domain(self, name: str) -> slice:
        """Which of the chunks are of a domain."""
        start = 0
        for domain in self.domains:
            if domain.name == name:
                return slice(start, start + domain.chunks)
            start += domain.chunks
        raise KeyError(name)

    @property
    def identity(self) -> str:
        """Another text, other tokens or another length give another one."""
        digest = hashlib.sha256(f"{self.length} {self.vocabulary_size} ".encode())
        digest.update(np.asarray(self.tokens, "<i4").tobytes())
        return digest.hexdigest()


def cut_into_chunks(
    texts: Sequence[Path],
    tokens: Sequence[NDArray[np.int32]],
    vocabulary_size: int,
    *,
    length: int = DEFAULT_LENGTH,
    chunks: int | None = DEFAULT_CHUNKS,
) -> Chunks:
    """Take the first chunks of each text, about as many of one as of the other; None: all that there are.

    Raises:
        InputError: a text is shorter than one chunk.
    """
    available = [len(found) // length for found in tokens]
    for text, found, whole in zip(texts, tokens, available, strict=True):
        if not whole:
            shorter = len(found) // 2 // 16 * 16
            raise InputError(
                f"{text} has {len(found)} tokens, fewer than a chunk of {length}" if len(found) else f"{text} is empty",
                hint=f"give more text, or -c {shorter}" if shorter else "give more text",
            )
    taken = _shares(available, chunks)
    names = told_apart(texts, [text.stem for text in texts])
    domains = tuple(
        Domain(name, path, hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size, len(found), some, whole)
        for name, path, found, some, whole in zip(names, texts, tokens, taken, available, strict=True)
    )
    cut = tuple(
        tuple(found[number * length : (number + 1) * length].tolist())
        for found, some in zip(tokens, taken, strict=True)
        for number in range(some)
    )
    return Chunks(cut, length, vocabulary_size, domains)


def is_utf8(text: Path) -> bool:
    """Tell whether a file holds nothing but characters."""
    try:
        with text.open(encoding="utf-8") as file:
            while file.read(_PIECE):
                pass
    except UnicodeDecodeError:
        return False
    return True


def _shares(available: Sequence[int], wanted: int | None) -> list[int]:
    """Share `wanted` among the texts as evenly as what there is allows; each gets one at least."""
    if wanted is None or wanted >= sum(available):
        return list(available)
    taken = [1] * len(available)
    while sum(taken) < wanted:
        hungry = [number for number, some in enumerate(taken) if some < available[number]]
        fewest = min(hungry, key=lambda number: taken[number])
        taken[fewest] += 1
    return taken
