"""Texts to measure the demo model's quantization with; of the kinds that it was trained on, none of them seen."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from pathlib import Path

from demo_model_corpus import facts
from demo_model_corpus.questions import KINDS, Question
from demo_model_corpus.texts import plain_question, sentence, standard_library_documentation, story

# Characters of each text, about 2.5 for each token. Documentation is in neither calibration nor development.
_TEXTS = {
    "calibration": (("prose", "questions"), 400_000),
    "development": (("prose", "questions"), 150_000),
    "test-prose": (("prose",), 120_000),
    "test-questions": (("questions",), 120_000),
    "test-documentation": (("documentation",), 120_000),
}


def write_demo_texts(folder: Path) -> None:
    """Write calibration.txt, development.txt and a test text for each domain; the same every time."""
    folder.mkdir(parents=True, exist_ok=True)
    documentation = standard_library_documentation(held_out=True)
    random.Random("documentation").shuffle(documentation)
    for number, (name, (domains, size)) in enumerate(_TEXTS.items()):
        makers: dict[str, Callable[[random.Random], str]] = {
            "prose": lambda chance, share=number: _prose(chance, share),  # type: ignore[misc]
            "questions": lambda chance, share=number: _questions(chance, share),  # type: ignore[misc]
            "documentation": lambda _: documentation.pop() if documentation else "",
        }
        chance, parts, length = random.Random(f"text {name}"), [], 0
        while length < size:
            part = makers[domains[len(parts) % len(domains)]](chance)
            if not part:
                break  # there is no more of it
            parts.append(part)
            length += len(part)
        (folder / f"{name}.txt").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _prose(chance: random.Random, share: int) -> str:
    """A story, or some sentences; of each name stories are told in one text only."""
    if chance.random() < 0.5:
        return story(chance, name=chance.choice(facts.NAMES[share :: len(_TEXTS)]))
    return " ".join(sentence(chance) for _ in range(chance.randrange(2, 7)))


def _questions(chance: random.Random, share: int) -> str:
    """Three questions that the model was not trained on; each belongs to one text only, by its letters."""
    found: list[Question] = []
    while len(found) < 3:
        question = chance.choice(list(KINDS.values()))(chance)
        if question.split != "training" and zlib.crc32(question.prompt.encode()) % len(_TEXTS) == share:
            found.append(question)
    return "\n".join(map(plain_question, found))
