"""Documents about the made-up world in three domains: prose, technical (markdown and code), and records.

Each document comes from a random generator alone, so that any number of them can be made and none is needed twice.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from quality_model.world import Person, Topic, Verb, World

_LINKS = [
    "Then",
    "Later",
    "After that",
    "Soon",
    "In the end",
    "Meanwhile",
    "For this reason",
    "However",
    "By then",
    "Once more",
]
_PREPOSITIONS = ["in", "near", "behind", "under", "beside", "beyond", "along", "above"]
_ADVERBS = [
    "slowly",
    "often",
    "gladly",
    "twice",
    "in silence",
    "without haste",
    "every year",
    "at dawn",
    "for a while",
    "with care",
]
_HIS = {"she": "her", "he": "his"}
_HIM = {"she": "her", "he": "him"}


class Writer:
    """Writes documents; each is a string that ends without a line break."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.people = world.people  # those that prose is about
        self.domains: dict[str, Callable[[random.Random], str]] = {
            "prose": self.prose,
            "technical": self.technical,
            "records": self.records,
        }

    # ------------------------------------------------------------------------------------------------ sentences

    def _thing(self, chance: random.Random, topic: Topic, noun: str | None = None, depth: int = 0) -> str:
        noun = noun or self.world.zipf(chance, topic.nouns)
        words = [chance.choice(("the", "the", "a", "this", "every", "some", "no"))]
        if chance.random() < 0.45:
            # An adjective goes with some nouns: which ones is fixed by the letters of both.
            fitting = [word for word in topic.adjectives if (len(word) + ord(noun[0])) % 3 == 0]
            words.append(self.world.zipf(chance, tuple(fitting or topic.adjectives)))
        words.append(noun)
        if depth < 2 and chance.random() < 0.16:
            verb = self.world.zipf(chance, topic.verbs)
            words += ["that", verb.past, self._thing(chance, topic, self.world.zipf(chance, verb.objects), depth + 1)]
        elif depth < 2 and chance.random() < 0.14:
            words += ["of", self._thing(chance, topic, None, depth + 2)]
        return " ".join(words)

    def _deed(self, chance: random.Random, topic: Topic, verb: Verb | None = None) -> str:
        verb = verb or self.world.zipf(chance, topic.verbs)
        words = [verb.past, self._thing(chance, topic, self.world.zipf(chance, verb.objects))]
        if chance.random() < 0.3:
            words += [chance.choice(_PREPOSITIONS), "the", self.world.zipf(chance, topic.places)]
        if chance.random() < 0.25:
            words.append(chance.choice(_ADVERBS))
        return " ".join(words)

    def _sentence(self, chance: random.Random, topic: Topic, actor: str) -> str:
        form = chance.randrange(6)
        deed = self._deed(chance, topic)
        if form == 0:
            verb = self.world.zipf(chance, topic.verbs)
            return f"While {verb.doing} {self._thing(chance, topic)}, {actor} {deed}."
        if form == 1:
            return f"{chance.choice(_LINKS)}, {actor} {deed} and {self._deed(chance, topic)}."
        if form == 2:
            return f"{self._thing(chance, topic).capitalize()} {self._deed(chance, topic)}, so {actor} {deed}."
        if form == 3:
            first, second = chance.randint(2, 60), chance.randint(2, 60)
            noun = self.world.zipf(chance, topic.nouns)
            return f"{actor.capitalize()} had {first} {noun}s, found {second} more, and then had {first + second}."
        return f"{actor.capitalize()} {deed}."

    # ------------------------------------------------------------------------------------------------ prose

    def prose(self, chance: random.Random) -> str:
        """Write about a person: facts of the world, and deeds in the words of a field."""
        person = chance.choice(self.people)
        topic = person.topic if chance.random() < 0.7 else chance.choice(self.world.topics)
        paragraphs = [" ".join(self._introduction(chance, person, topic))]
        friend = chance.choice(self.world.people)
        for _ in range(chance.randint(2, 5)):
            sentences = []
            for _ in range(chance.randint(3, 7)):
                actor = chance.choices((person.pronoun, person.name, friend.name, "they"), (5, 3, 2, 1))[0]
                sentences.append(self._sentence(chance, topic, actor))
            if chance.random() < 0.4:
                sentences.append(self._speech(chance, person, friend))
            paragraphs.append(" ".join(sentences))
        return "\n\n".join(paragraphs)

    def _introduction(self, chance: random.Random, person: Person, topic: Topic) -> list[str]:
        town = person.town
        full = f"{person.name} {person.family}"
        facts = [
            f"{full} was a {person.trade} from {town.name} in {town.country}.",
            f"Born in {person.born}, {person.pronoun} grew up by the {town.river}.",
            f"{town.name} was founded in {town.founded} and is known for its {town.known_for}.",
            f"At {chance.randint(17, 40)}, {person.pronoun} began to work on {topic.name}.",
            f"{_HIS[person.pronoun].capitalize()} first book was about {self._thing(chance, topic)}.",
            f"The {town.river} flows through {town.country}.",
        ]
        return [facts[0], *chance.sample(facts[1:], chance.randint(2, 4))]

    def _speech(self, chance: random.Random, person: Person, friend: Person) -> str:
        town = friend.town
        said = chance.choice(
            (
                f"I was born in {friend.born}",
                f"In {town.name} everybody speaks of the {town.known_for}",
                f"A {friend.trade} needs {self._thing(chance, friend.topic)}",
                f"Nobody in {town.country} believes it",
            )
        )
        return f'"{said}," {friend.name} told {_HIM[person.pronoun]}.'

    # ------------------------------------------------------------------------------------------------ technical

    def technical(self, chance: random.Random) -> str:
        """Write documentation in markdown with code, or code alone."""
        topic = chance.choice(self.world.topics)
        if chance.random() < 0.4:
            return self._module(chance, topic, chance.randint(2, 4))
        return self._documentation(chance, topic)

    def _documentation(self, chance: random.Random, topic: Topic) -> str:
        module = chance.choice(self.world.modules)
        parts = [f"# {module}", f"`{module}` is a library for {topic.name}. {self._advice(chance, topic, module)}"]
        options = chance.sample(topic.nouns, chance.randint(2, 5))
        for title in chance.sample(("Install", "Options", "Usage", "Limits", "See also"), chance.randint(2, 5)):
            parts.append(f"## {title}")
            if title == "Install":
                parts.append(f"```\npip install {module}\n{module} --version\n```")
            elif title == "Options":
                rows = [
                    f"| `--{option}` | {self._kind(option)} | {self._thing(chance, topic, option, 2)} |"
                    for option in options
                ]
                parts.append("\n".join(["| option | type | meaning |", "| --- | --- | --- |", *rows]))
            elif title == "Usage":
                parts.append(f"```python\n{self._module(chance, topic, 1, options)}\n```")
            elif title == "Limits":
                parts.append("\n".join(f"- `--{option}` {self._deed(chance, topic)}" for option in options))
            else:
                others = chance.sample(self.world.modules, 3)
                parts.append("\n".join(f"{n}. [{other}](docs/{other}.md)" for n, other in enumerate(others, 1)))
            if chance.random() < 0.5:
                parts.append(self._advice(chance, topic, chance.choice(options)))
        return "\n\n".join(parts)

    def _advice(self, chance: random.Random, topic: Topic, about: str) -> str:
        verb = self.world.zipf(chance, topic.verbs)
        thing = self._thing(chance, topic, self.world.zipf(chance, verb.objects))
        return chance.choice(
            (
                f"Use `{about}` to {verb.base} {thing}.",
                f"Before {verb.doing} {thing}, set `{about}`.",
                f"If `{about}` fails, {verb.base} {thing} and try again.",
                f"**Note:** `{about}` never {verb.past} {thing}.",
            )
        )

    def _kind(self, option: str) -> str:
        return ("int", "str", "float", "bool")[sum(map(ord, option)) % 4]  # the same in every text

    def _module(self, chance: random.Random, topic: Topic, functions: int, names: list[str] | None = None) -> str:
        known: list[str] = []
        parts = []
        for _ in range(functions):
            verb = self.world.zipf(chance, topic.verbs)
            first, second = chance.sample(names, 2) if names else chance.sample(topic.nouns[:40], 2)
            name = f"{verb.base}_{self.world.zipf(chance, verb.objects)}"
            parts.append(self._function(chance, topic, name, first, second, known))
            known.append(name)
        return "\n\n\n".join(parts)

    def _function(
        self, chance: random.Random, topic: Topic, name: str, first: str, second: str, known: list[str]
    ) -> str:
        limit = chance.randint(2, 90)
        lines = [f"def {name}({first}: {self._kind(first)}, {second}: {self._kind(second)}):"]
        lines.append(f'    """{self._deed(chance, topic).capitalize()}."""')
        if chance.random() < 0.5:
            lines += [f"    if {first} > {limit}:", f'        raise ValueError("{first} is above {limit}")']
        local = self.world.zipf(chance, topic.nouns)
        if chance.random() < 0.5:
            lines += [f"    {local} = []", f"    for each in {second}:", f"        {local}.append(each + {first})"]
        else:
            lines.append(f"    {local} = {first} {chance.choice('+-*')} {limit}")
        if known and chance.random() < 0.7:
            lines.append(f"    {local} = {chance.choice(known)}({local}, {second})")
        lines.append(f"    return {local}")
        return "\n".join(lines)

    # ------------------------------------------------------------------------------------------------ records

    def records(self, chance: random.Random) -> str:
        """Write what machines write: logs of services, or JSON about people and towns."""
        return self._log(chance) if chance.random() < 0.5 else self._json(chance)

    def _log(self, chance: random.Random) -> str:
        services = chance.sample(self.world.services, 3)
        topic = chance.choice(self.world.topics)
        seconds = chance.randint(0, 80_000)
        day = f"2{chance.randint(100, 999)}-{chance.randint(1, 12):02d}-{chance.randint(1, 28):02d}"
        lines = []
        for _ in range(chance.randint(8, 22)):
            seconds += chance.randint(0, 90)
            clock = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
            level = chance.choices(("INFO", "WARN", "ERROR", "DEBUG"), (6, 2, 1, 2))[0]
            service, verb = chance.choice(services), self.world.zipf(chance, topic.verbs)
            thing = self.world.zipf(chance, verb.objects)
            tail = chance.choice(
                (f"took={chance.randint(1, 900)}ms", f"id={chance.getrandbits(24):06x}", "ok", "retry=1")
            )
            lines.append(f"{day} {clock} {level} [{service}] {verb.past} {thing} {tail}")
        return "\n".join(lines)

    def _json(self, chance: random.Random) -> str:
        entries = [
            {
                "name": f"{person.name} {person.family}",
                "born": person.born,
                "town": {"name": person.town.name, "country": person.town.country, "river": person.town.river},
                "trade": person.trade,
                "words": [self.world.zipf(chance, person.topic.nouns) for _ in range(chance.randint(2, 5))],
            }
            for person in chance.sample(self.world.people, chance.randint(2, 4))
        ]
        return json.dumps(entries, indent=1)
