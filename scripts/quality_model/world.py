"""The made-up world that the texts of the quality models speak of: words, and facts that are the same in every text.

A model has to learn from many texts which verb goes with which thing and which town lies in which country, so that its
weights hold knowledge, as those of a language model do, and not a template alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import accumulate

_ONSETS = [
    "b",
    "br",
    "c",
    "ch",
    "cl",
    "d",
    "dr",
    "f",
    "fl",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "pl",
    "pr",
    "r",
    "s",
    "sh",
    "sl",
    "st",
    "t",
    "th",
    "tr",
    "v",
    "w",
]
_VOWELS = ["a", "e", "i", "o", "u", "a", "e", "o", "ai", "ea", "ou"]
_CODAS = ["n", "r", "l", "s", "t", "m", "d", "ck", "nd", "rt", "sh", "x"]
TOPICS = 24


@dataclass(frozen=True)
class Verb:
    """A verb in its forms, and the things that it is done to."""

    base: str
    past: str
    doing: str
    objects: tuple[str, ...]


@dataclass(frozen=True)
class Topic:
    """The words of one field; the first are the most frequent."""

    name: str
    nouns: tuple[str, ...]
    verbs: tuple[Verb, ...]
    adjectives: tuple[str, ...]
    places: tuple[str, ...]


@dataclass(frozen=True)
class Town:
    """A town and what is always said of it."""

    name: str
    country: str
    river: str
    founded: int
    known_for: str


@dataclass(frozen=True)
class Person:
    """A person and what is always said of them."""

    name: str
    family: str
    pronoun: str
    born: int
    town: Town
    trade: str
    topic: Topic


class World:
    """Words and facts; the same seed makes the same world."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(f"world {seed}")
        self._taken: set[str] = set()
        nouns = self._words(700)
        adjectives = self._words(200, endings=("al", "ous", "y", "ic", "ish", "ant"))
        trades = self._words(60, endings=("er", "ist", "or", "wright"))
        self.topics = [self._topic(nouns, adjectives) for _ in range(TOPICS)]
        countries, rivers = self._names(25), self._names(40)
        self.towns = [self._town(name, countries, rivers, nouns) for name in self._names(90)]
        families = self._names(120)
        self.people = [self._person(name, families, trades) for name in self._names(200)]
        self.modules = self._words(80)
        self.services = [f"{first}-{second}" for first, second in zip(self._words(40), self._words(40), strict=True)]

    def zipf(self, chance: random.Random, items: tuple, exponent: float = 0.9):
        """Draw one, the first ones more often."""
        weights = list(accumulate((rank + 1) ** -exponent for rank in range(len(items))))
        return chance.choices(items, cum_weights=weights)[0]

    def _words(self, count: int, endings: tuple[str, ...] = ("",)) -> list[str]:
        words = []
        while len(words) < count:
            chance = self._random
            syllables = chance.choices((1, 2), (4, 5))[0]
            word = "".join(chance.choice(_ONSETS) + chance.choice(_VOWELS) for _ in range(syllables))
            word += chance.choice(_CODAS) + chance.choice(endings)
            if word not in self._taken:
                self._taken.add(word)
                words.append(word)
        return words

    def _names(self, count: int) -> list[str]:
        return [word.capitalize() for word in self._words(count, endings=("", "a", "en", "o", "is"))]

    def _verb(self, nouns: list[str]) -> Verb:
        base = self._words(1)[0]
        past = f"{base}ed" if self._random.random() < 0.8 else f"{base[:-1]}ght"
        return Verb(base, past, f"{base}ing", tuple(self._random.sample(nouns, 12)))

    def _topic(self, nouns: list[str], adjectives: list[str]) -> Topic:
        chance = self._random
        own = chance.sample(nouns, 60)
        verbs = tuple(self._verb(own) for _ in range(18))
        return Topic(own[0], tuple(own), verbs, tuple(chance.sample(adjectives, 24)), tuple(chance.sample(nouns, 10)))

    def _town(self, name: str, countries: list[str], rivers: list[str], nouns: list[str]) -> Town:
        chance = self._random
        return Town(
            name, chance.choice(countries), chance.choice(rivers), chance.randint(700, 1900), chance.choice(nouns)
        )

    def _person(self, name: str, families: list[str], trades: list[str]) -> Person:
        chance = self._random
        pronoun = chance.choice(("she", "he"))
        return Person(
            name,
            chance.choice(families),
            pronoun,
            chance.randint(1790, 1990),
            chance.choice(self.towns),
            chance.choice(trades),
            chance.choice(self.topics),
        )
