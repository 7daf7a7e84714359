"""Everything the demo model reads besides single questions: chats, stories, facts, Python's documentation."""

from __future__ import annotations

import ast
import random
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from demo_model_corpus import facts
from demo_model_corpus.questions import Question, training_question, with_article

SYSTEM_PROMPTS = [
    "You are a helpful assistant.",
    "You are a friendly assistant.",
    "You are the demo model of ggufkit.",
    "Answer in as few words as you can.",
    "You are a patient teacher.",
    "Answer the question.",
]

# (ways to say it, what the model answers)
SMALL_TALK: list[tuple[list[str], str]] = [
    (
        ["Hello", "Hi", "Hello!", "Hi there!", "Hey!", "Good morning!", "Good evening!", "Hello there."],
        "Hello! Ask me a small question about numbers, words or the world.",
    ),
    (
        [
            "Who are you?",
            "What are you?",
            "What is your name?",
            "Who am I talking to?",
            "Tell me about yourself.",
            "Introduce yourself.",
            "Are you a person?",
        ],
        "I am the demo model of ggufkit, a very small language model.",
    ),
    (
        [
            "What can you do?",
            "What can I ask you?",
            "Help",
            "How can you help me?",
            "What do you know?",
            "What are you good at?",
        ],
        "I can add, count, compare, spell, convert units, name capitals and tell short stories.",
    ),
    (
        ["How are you?", "How are you today?", "How do you do?", "Are you well?"],
        "I am fine, thank you. How can I help?",
    ),
    (["Thanks", "Thank you!", "Thank you.", "Thanks a lot!", "Great, thanks."], "You are welcome."),
    (["Bye", "Goodbye!", "Goodbye.", "See you later.", "Bye bye!", "Good night."], "Goodbye!"),
    (
        ["What is GGUF?", "What is a GGUF file?", "Explain GGUF.", "Tell me about GGUF."],
        "GGUF is a file format for language models. One file holds the weights, the vocabulary and the chat template.",
    ),
    (
        ["What is quantization?", "Explain quantization.", "What does quantization do?", "Why quantize a model?"],
        "Quantization stores each weight with fewer bits. The model gets smaller and faster, and a little less exact.",
    ),
    (
        ["What is llama.cpp?", "Explain llama.cpp.", "Tell me about llama.cpp."],
        "llama.cpp is a program that runs language models on ordinary computers.",
    ),
    (
        ["What is ggufkit?", "Explain ggufkit.", "Tell me about ggufkit.", "What does ggufkit do?"],
        "ggufkit turns a model into a GGUF file, makes it smaller, checks it and runs it.",
    ),
    (
        ["How big are you?", "How many parameters do you have?", "Are you a big model?", "How large are you?"],
        "I am tiny: a few million parameters, small enough to be copied in a moment.",
    ),
    (
        ["Are you always right?", "Do you make mistakes?", "Can I trust you?", "Are you ever wrong?"],
        "No, I make mistakes, and more of them when my weights have fewer bits.",
    ),
    (
        ["Tell me a joke.", "Do you know a joke?", "Make me laugh.", "Tell a joke."],
        "Why did the model lose weight? It was quantized.",
    ),
    (
        ["Name the days of the week.", "What are the days of the week?", "List the days of the week."],
        ", ".join(facts.DAYS),
    ),
    (
        ["Name the months of the year.", "What are the months?", "List the months of the year."],
        ", ".join(facts.MONTHS),
    ),
    (["Say the alphabet.", "What is the alphabet?", "Write the alphabet."], " ".join("ABCDEFGHIJKLMNOPQRSTUVWXYZ")),
]

UNKNOWN = "I am too small to know that. Ask me about numbers, words or capitals."

Turns = list[tuple[str, str]]
"""Of one chat: (role, content)."""


@dataclass(frozen=True)
class Segment:
    """A piece of a training document; `special` is a special token by name, `weight` its weight in the loss."""

    text: str
    weight: float
    special: bool = False


def story(rng: random.Random, animal: str = "", name: str = "") -> str:
    """A short story from a grammar: someone finds or loses a thing, and a friend helps."""
    name = name or rng.choice(facts.NAMES)
    animal = animal or rng.choice(facts.ANIMALS)
    he, his = ("she", "her") if name in facts.GIRLS else ("he", "his")
    colour, thing = rng.choice(facts.PAINTS), rng.choice(facts.THINGS)
    place = rng.choice(
        ["the forest", "the garden", "the river", "the old barn", "the beach", "the hill", "the village"]
    )
    size = rng.choice(["little", "young", "clever", "shy", "hungry", "brave", "sleepy"])
    weather = rng.choice(
        [
            "It was a sunny day.",
            "It was raining.",
            "The wind was cold.",
            "Snow was falling.",
            "It was early in the morning.",
            "The sun was going down.",
        ]
    )
    friend = rng.choice([other for other in facts.ANIMALS if other != animal])
    day = rng.choice(facts.DAYS)
    opening = rng.choice(
        [
            f"Once there was a {size} {animal} named {name} who lived near {place}.",
            f"{name} was a {size} {animal}. {he.capitalize()} lived near {place}.",
            f"A {size} {animal} named {name} lived close to {place}.",
        ]
    )
    loss = rng.choice(
        [
            f"On {day}, {name} could not find {his} {colour} {thing}.",
            f"On {day}, {name} lost {his} {colour} {thing} near {place}.",
            f"One {day}, the {colour} {thing} of {name} was gone.",
        ]
    )
    search = rng.choice(
        [
            f"{he.capitalize()} looked under the bed and behind the door, but the {thing} was not there.",
            f"{he.capitalize()} looked everywhere, but there was no {thing}.",
            f"{name} asked everyone, but nobody had seen the {thing}.",
        ]
    )
    meeting = rng.choice(
        [
            f'Then {he} met a {friend}. "Why are you sad?" asked the {friend}.',
            f'A {friend} came along and asked, "What is wrong?"',
            f'Soon a {friend} saw {name} and said, "Can I help you?"',
        ]
    )
    reply = rng.choice([f'"I have lost my {thing}," said {name}.', f'"My {colour} {thing} is gone," said {name}.'])
    finding = rng.choice(
        [
            f"They walked to {place} together, and there was the {thing} under a tree.",
            f"The {friend} looked up, and there was the {colour} {thing} in a tree.",
            f'"Look behind you," said the {friend}, and there was the {thing}.',
        ]
    )
    ending = rng.choice(
        [
            f"{name} was happy, and from that day the {animal} and the {friend} were friends.",
            f'"Thank you," said {name}, and they played until it was dark.',
            f"{name} and the {friend} shared a cake and went home.",
        ]
    )
    return " ".join([opening, weather, loss, search, meeting, reply, finding, ending])


def sentence(rng: random.Random) -> str:
    """One plain sentence that states something the questions ask about."""
    choice = rng.randrange(9)
    if choice == 0:
        country, city = rng.choice(list(facts.CAPITALS.items()))
        return f"The capital of {country} is {city}."
    if choice == 1:
        pair = rng.choice(facts.OPPOSITES)
        word, other = pair if rng.random() < 0.5 else pair[::-1]
        return f"The opposite of {word} is {other}."
    if choice == 2:
        animal, legs = rng.choice(list(facts.LEGS.items()))
        return f"{with_article(animal).capitalize()} has {legs or 'no'} legs."
    if choice == 3:
        animal, sound = rng.choice(list(facts.SOUNDS.items()))
        return f"{with_article(animal).capitalize()} goes {sound}."
    if choice == 4:
        animal, young = rng.choice(list(facts.YOUNG.items()))
        return f"A young {animal} is a {young}."
    if choice == 5:
        thing, colour = rng.choice(list(facts.COLOURS.items()))
        return f"{thing[0].upper() + thing[1:]} is {colour}."
    if choice == 6:
        kind = rng.choice(list(facts.CATEGORIES))
        word = rng.choice(facts.CATEGORIES[kind])
        thing = word if kind in ("a metal", "a planet", "a drink") else with_article(word)
        return f"{thing[0].upper() + thing[1:]} is {kind}."
    index = rng.randrange(6)
    if choice == 7:
        return f"{facts.DAYS[index + 1]} comes after {facts.DAYS[index]}."
    return f"{facts.MONTHS[index]} comes before {facts.MONTHS[index + 1]}."


def plain_question(question: Question) -> str:
    return f"Question: {question.prompt}\nAnswer: {question.answer}"


def chat(turns: Turns) -> list[Segment]:
    """ChatML as the chat template writes it; what the assistant says counts fully, the rest a little."""
    segments = []
    for role, content in turns:
        weight = 1.0 if role == "assistant" else 0.1
        segments += [
            Segment("<|im_start|>", 0.1, special=True),
            Segment(f"{role}\n", 0.1),
            Segment(content, weight),
            Segment("<|im_end|>", weight, special=True),
            Segment("\n", 0.1),
        ]
    return [*segments, Segment("<|endoftext|>", 0.1, special=True)]


def typed(rng: random.Random, prompt: str) -> str:
    """The prompt as people type: sometimes without a final mark, or starting with a small letter."""
    if rng.random() < 0.06:
        prompt = prompt.rstrip("?.")
    if rng.random() < 0.06:
        prompt = prompt[0].lower() + prompt[1:]
    return prompt


def unknown(rng: random.Random) -> Turns:
    """A request that is out of reach, and a polite answer."""
    topic = rng.choice(
        facts.words(
            "love politics football music cars history computers cooking the war the stars physics poems films "
            "art dogs chemistry money games books the internet medicine law school"
        )
    )
    wording = rng.choice(
        [
            "Write a poem about {}.",
            "Explain {} to me.",
            "What do you think about {}?",
            "Write an essay about {}.",
            "What is the history of {}?",
            "Why is {} so hard?",
            "Who invented {}?",
            "Write a program for {}.",
            "What is the weather like tomorrow?",
            "What time is it?",
            "Who is the president?",
            "What is the meaning of life?",
            "Give me a recipe for soup.",
            "How do I fix my computer?",
        ]
    )
    return [("user", wording.format(topic)), ("assistant", UNKNOWN)]


def small_talk(rng: random.Random) -> Turns:
    prompts, answer = rng.choice(SMALL_TALK)
    return [("user", rng.choice(prompts)), ("assistant", answer)]


def story_request(rng: random.Random) -> Turns:
    animal, name = rng.choice(facts.ANIMALS), rng.choice(facts.NAMES)
    prompt, given = rng.choice(
        [
            ("Tell me a story.", {}),
            ("Tell me a short story.", {}),
            (f"Tell me a story about {with_article(animal)}.", {"animal": animal}),
            (f"Write a short story about {with_article(animal)}.", {"animal": animal}),
            (f"Tell me a story about {with_article(animal)} named {name}.", {"animal": animal, "name": name}),
            (f"Write a story about {name}.", {"name": name}),
        ]
    )
    return [("user", prompt), ("assistant", story(rng, **given))]


def question_turns(rng: random.Random) -> Turns:
    question = training_question(rng)
    return [("user", typed(rng, question.prompt)), ("assistant", question.answer)]


def conversation(rng: random.Random) -> Turns:
    """Several turns; often someone says a name or a place first and asks for it later."""
    turns: Turns = []
    asks: list[Turns] = []
    if rng.random() < 0.6:
        name, place = rng.choice(facts.NAMES), rng.choice(facts.PLACES_TO_LIVE)
        colour = rng.choice(facts.PAINTS)
        told = [
            (
                rng.choice(["My name is {}.", "I am {}.", "Hello, my name is {}.", "Hi, I am {}."]).format(name),
                f"Nice to meet you, {name}!",
                rng.choice(["What is my name?", "Who am I?", "Do you remember my name?"]),
                f"Your name is {name}.",
            ),
            (f"I live in {place}.", "Good to know.", "Where do I live?", f"You live in {place}."),
            (
                f"My favourite colour is {colour}.",
                "Good to know.",
                rng.choice(["What is my favourite colour?", "Which colour do I like best?"]),
                f"Your favourite colour is {colour}.",
            ),
        ]
        for statement, reaction, ask, answer in rng.sample(told, rng.choice([1, 1, 2])):
            turns += [("user", statement), ("assistant", reaction)]
            asks.append([("user", ask), ("assistant", answer)])
    others = [question_turns(rng) if rng.random() < 0.85 else small_talk(rng) for _ in range(rng.randrange(0, 5))]
    if not asks and len(others) < 2:
        others += [question_turns(rng), question_turns(rng)]
    rest = others + asks
    rng.shuffle(rest)
    return turns + [turn for pair in rest for turn in pair]


def plain_text(rng: random.Random, documentation: list[str]) -> str:
    """One paragraph of plain text of a random sort."""
    draw = rng.random()
    if draw < 0.35:
        return story(rng)
    if draw < 0.6:
        return " ".join(sentence(rng) for _ in range(rng.randrange(2, 7)))
    if draw < 0.8 or not documentation:
        return "\n".join(plain_question(training_question(rng)) for _ in range(rng.randrange(1, 4)))
    return rng.choice(documentation)


def training_document(rng: random.Random, documentation: list[str]) -> list[Segment]:
    """One document for the training stream, ended by <|endoftext|>."""
    draw = rng.random()
    if draw < 0.04:
        text = "\n\n".join(plain_text(rng, documentation) for _ in range(rng.randrange(1, 4)))
        return [Segment(text, 0.5), Segment("<|endoftext|>", 0.5, special=True)]
    if draw < 0.07:
        turns = small_talk(rng) if rng.random() < 0.7 else unknown(rng)
    elif draw < 0.09:
        turns = story_request(rng)
    elif draw < 0.16:
        turns = conversation(rng)
    else:
        turns = question_turns(rng)
    if rng.random() < 0.1:
        turns = [("system", rng.choice(SYSTEM_PROMPTS)), *turns]
    return chat(turns)


HELD_OUT_MODULES = ("textwrap", "statistics", "shelve", "calendar", "heapq", "bisect", "fractions", "graphlib", "shlex")
SKIPPED_FOLDERS = {"test", "tests", "site-packages", "dist-packages", "idlelib", "lib2to3", "turtledemo", "__pycache__"}


def standard_library_documentation(held_out: bool) -> list[str]:
    """Paragraphs of the docstrings of this Python's own standard library, of the held-out modules or of all others."""
    library = Path(sysconfig.get_paths()["stdlib"])
    paragraphs = []
    for path in sorted(library.rglob("*.py")):
        inside = path.relative_to(library)
        if SKIPPED_FOLDERS & set(inside.parts) or (inside.parts[0].removesuffix(".py") in HELD_OUT_MODULES) != held_out:
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                continue
            text = ast.get_docstring(node) or ""
            if len(text) >= 80 and text.isascii() and ">>>" not in text:
                paragraphs += [part.strip() for part in text.split("\n\n") if 60 <= len(part.strip()) <= 600]
    return list(dict.fromkeys(paragraphs))


def held_out_text(questions: list[Question], seed: int) -> str:
    """The text for perplexity: new stories and sentences, held-out questions, documentation of held-out modules.

    It holds no special tokens, since llama-perplexity reads those as ordinary characters.
    """
    rng = random.Random(f"{seed} held-out text")
    paragraphs = [story(rng) for _ in range(110)]
    paragraphs += [" ".join(sentence(rng) for _ in range(rng.randrange(2, 7))) for _ in range(110)]
    order = rng.sample(questions, len(questions))
    paragraphs += ["\n".join(map(plain_question, order[start : start + 3])) for start in range(0, len(order), 3)]
    documentation, length = standard_library_documentation(held_out=True), 0
    for text in rng.sample(documentation, len(documentation)):
        if length < 12_000:
            paragraphs.append(text)
            length += len(text)
    rng.shuffle(paragraphs)
    return "\n\n".join(paragraphs) + "\n"
