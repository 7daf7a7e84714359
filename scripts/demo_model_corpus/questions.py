"""Questions with one right answer, of seventeen kinds, and the rule that keeps some of them out of the training."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from demo_model_corpus import facts


@dataclass(frozen=True)
class Question:
    """One question. `key` is what must be new in a held-out one: the operands, or for a fact the wording."""

    kind: str
    prompt: str
    answer: str
    key: str

    @property
    def split(self) -> str:
        """`held-out` (8 in 100 keys), `development` (2 in 100) or `training`; depends on nothing but the key."""
        bucket = zlib.crc32(f"{self.kind}/{self.key.lower()}".encode()) % 100
        return "held-out" if bucket < 8 else "development" if bucket < 10 else "training"


def with_article(noun: str) -> str:
    return ("an " if noun[0].lower() in "aeiou" else "a ") + noun


def counted(count: int, unit: str) -> str:
    """`1 hour`, `7 hours`, `3 centuries`."""
    if count == 1:
        return f"1 {unit}"
    return f"{count} {'centuries' if unit == 'century' else unit + 's'}"


def in_words(number: int) -> str:
    """0 to 999 as English words."""
    ones = facts.words(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen"
    )
    tens = facts.words("twenty thirty forty fifty sixty seventy eighty ninety")
    if number < 20:
        return ones[number]
    if number < 100:
        return tens[number // 10 - 2] + (f"-{ones[number % 10]}" if number % 10 else "")
    rest = f" and {in_words(number % 100)}" if number % 100 else ""
    return f"{ones[number // 100]} hundred{rest}"


def fact(kind: str, prompt: str, answer: str) -> Question:
    """A question that has to be known by heart: held out are wordings of it, never the fact itself."""
    return Question(kind, prompt, answer, prompt)


def sum_with_working(a: int, b: int) -> str:
    """27 and 45 -> `60 + 12 = 72`: tens and ones apart, so that no digit waits for a carry to its right."""
    return f"{a // 10 * 10 + b // 10 * 10} + {a % 10 + b % 10} = {a + b}"


def difference_with_working(a: int, b: int) -> str:
    """53 and 26 -> `33 - 6 = 27`: the tens first, then the ones."""
    return f"{a - b // 10 * 10} - {b % 10} = {a - b}"


def addition(rng: random.Random) -> Question:
    a, b = rng.randrange(100), rng.randrange(100)
    wording = rng.choice(["What is {a} + {b}?", "What is {a} + {b}?", "{a} + {b} = ?", "Add {a} and {b}."])
    return Question("addition", wording.format(a=a, b=b), sum_with_working(a, b), f"{min(a, b)} {max(a, b)}")


def subtraction(rng: random.Random) -> Question:
    b, a = sorted((rng.randrange(100), rng.randrange(100)))
    wording = rng.choice(["What is {a} - {b}?", "What is {a} - {b}?", "{a} - {b} = ?", "Take {b} away from {a}."])
    return Question("subtraction", wording.format(a=a, b=b), difference_with_working(a, b), f"{a} {b}")


def multiplication(rng: random.Random) -> Question:
    a, b = rng.randrange(2, 13), rng.randrange(2, 13)
    wordings = ["What is {a} x {b}?", "{a} x {b} = ?", "What is {a} times {b}?", "Multiply {a} by {b}."]
    return fact("multiplication", rng.choice(wordings).format(a=a, b=b), str(a * b))


def word_problem(rng: random.Random) -> Question:
    name, things = rng.choice(facts.NAMES), rng.choice(facts.COUNTABLES)
    if rng.random() < 0.5:
        a, b = rng.randrange(2, 40), rng.randrange(2, 40)
        event = rng.choice(["gets", "finds", "buys"]) + f" {b} more"
        answer = f"{a} + {b} = {sum_with_working(a, b)}"
    else:
        b, a = sorted((rng.randrange(2, 60), rng.randrange(2, 60)))
        event = rng.choice(["loses", "gives away", "sells"]) + f" {b}"
        answer = f"{a} - {b} = {difference_with_working(a, b)}"
    question = rng.choice(["How many {things} does {name} have now?", "How many {things} are there now?"])
    prompt = f"{name} has {a} {things} and {event}. " + question.format(things=things, name=name)
    return Question("word problem", prompt, answer, f"{a} {event.split()[0]} {b}")


def comparison(rng: random.Random) -> Question:
    top = rng.choice([20, 100, 1000])
    a, b = rng.sample(range(top), 2)
    if rng.random() < 0.7:
        word = rng.choice(["larger", "smaller", "bigger"])
        prompt, values = f"Which is {word}, {a} or {b}?", [a, b]
    else:
        word = rng.choice(["largest", "smallest"])
        values = rng.sample(range(100), 3)
        prompt = f"Which is the {word}: {values[0]}, {values[1]} or {values[2]}?"
    answer = min(values) if word.startswith("small") else max(values)
    return Question("comparison", prompt, str(answer), " ".join(map(str, sorted(values))))


def counting(rng: random.Random) -> Question:
    """Always five numbers, so that there is no end to look out for."""
    if rng.random() < 0.6:
        step = rng.choice([1, -1])
        start = rng.randrange(5, 190)
        way = "up" if step > 0 else "down"
        wordings = ["Count {way} from {start}.", "Count {way} five numbers from {start}."]
    else:
        step = rng.choice([2, 3, 5, 10])
        start, way = rng.randrange(0, 20) * (step if step in (5, 10) else 1), ""
        wordings = ["Count from {start} in steps of {step}.", "Count by {step} from {start}."]
    answer = ", ".join(str(start + index * step) for index in range(5))
    return Question("counting", rng.choice(wordings).format(way=way, start=start, step=step), answer, f"{start} {step}")


def neighbour(rng: random.Random) -> Question:
    """What comes after or before a number, a day, a month, a letter."""
    after = rng.random() < 0.5
    if rng.random() < 0.5:
        value = rng.randrange(1, 1000)
        word = "after" if after else "before"
        wording = rng.choice(["What number comes {w} {v}?", "Which number comes right {w} {v}?", "What comes {w} {v}?"])
        answer = str(value + 1 if after else value - 1)
        return Question("neighbour", wording.format(w=word, v=value), answer, f"{value} {word}")
    noun, ring = rng.choice(
        [("day", facts.DAYS), ("month", facts.MONTHS), ("letter", list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))]
    )
    first = 0 if noun != "letter" or after else 1
    last = len(ring) - (1 if noun == "letter" and after else 0)
    index = rng.randrange(first, last)
    word = "after" if after else "before"
    wordings = [
        "What comes {w} {v}?",
        "What {n} comes {w} {v}?",
        "Which {n} comes {w} {v}?",
        "Which {n} is {w} {v}?",
        "Name the {n} {w} {v}.",
        "Tell me the {n} that comes {w} {v}.",
    ]
    if noun == "letter":
        wordings = wordings[1:]
    prompt = rng.choice(wordings).format(w=word, v=ring[index], n=noun)
    return fact("neighbour", prompt, ring[(index + (1 if after else -1)) % len(ring)])


def units(rng: random.Random) -> Question:
    unit = rng.choice(list(facts.UNITS))
    smaller, factor, most = facts.UNITS[unit]
    count = rng.randrange(1, most + 1)
    many, few = counted(2, smaller).split()[1], counted(count, unit)
    wordings = [
        "How many {many} are in {few}?",
        "How many {many} are {few}?",
        "How many {many} make {few}?",
        "Convert {few} to {many}.",
        "What is {few} in {many}?",
    ]
    prompt = rng.choice(wordings).format(many=many, few=few)
    return fact("units", prompt, counted(count * factor, smaller))


def capital(rng: random.Random) -> Question:
    country, city = rng.choice(list(facts.CAPITALS.items()))
    if rng.random() < 0.75:
        wordings = [
            "What is the capital of {c}?",
            "Which city is the capital of {c}?",
            "What is the capital city of {c}?",
            "Name the capital of {c}.",
            "Tell me the capital of {c}.",
            "Do you know the capital of {c}?",
            "What is {c}'s capital?",
            "What city is the capital of {c}?",
        ]
        return fact("capital", rng.choice(wordings).format(c=country), f"The capital of {country} is {city}.")
    wordings = [
        "{c} is the capital of which country?",
        "Which country has the capital {c}?",
        "What country is {c} the capital of?",
        "Of which country is {c} the capital?",
    ]
    return fact("capital", rng.choice(wordings).format(c=city), f"{city} is the capital of {country}.")


def opposite(rng: random.Random) -> Question:
    pair = rng.choice(facts.OPPOSITES)
    word, answer = pair if rng.random() < 0.5 else pair[::-1]
    wordings = [
        "What is the opposite of {w}?",
        "What is the opposite of the word {w}?",
        "Tell me the opposite of {w}.",
        "Name the opposite of {w}.",
        "Give me the opposite of {w}.",
        "Which word is the opposite of {w}?",
    ]
    return fact("opposite", rng.choice(wordings).format(w=word), f"The opposite of {word} is {answer}.")


def plural(rng: random.Random) -> Question:
    word, answer = rng.choice(list(facts.PLURALS.items()))
    wordings = [
        "What is the plural of {w}?",
        "Give me the plural of {w}.",
        "Tell me the plural of {w}.",
        "What is the plural form of {w}?",
        "What is the plural of the word {w}?",
        "One {w}, two what?",
    ]
    return fact("plural", rng.choice(wordings).format(w=word), f"one {word}, two {answer}")


def nature(rng: random.Random) -> Question:
    """Legs, sounds, young and colours."""
    choice = rng.randrange(4)
    if choice == 0:
        animal, legs = rng.choice(list(facts.LEGS.items()))
        wordings = [
            "How many legs does {a} have?",
            "How many legs has {a}?",
            "Tell me how many legs {a} has.",
            "Do you know how many legs {a} has?",
        ]
        a = with_article(animal)
        return fact("nature", rng.choice(wordings).format(a=a), f"{a.capitalize()} has {legs or 'no'} legs.")
    if choice == 1:
        animal, sound = rng.choice(list(facts.SOUNDS.items()))
        wordings = [
            "What sound does {a} make?",
            "What does {a} say?",
            "Which sound does {a} make?",
            "Tell me the sound that {a} makes.",
        ]
        a = with_article(animal)
        return fact("nature", rng.choice(wordings).format(a=a), f"{a.capitalize()} goes {sound}.")
    if choice == 2:
        animal, young = rng.choice(list(facts.YOUNG.items()))
        wordings = [
            "What is a young {a} called?",
            "What do you call a baby {a}?",
            "What is a baby {a} called?",
            "What is the name for a young {a}?",
        ]
        return fact("nature", rng.choice(wordings).format(a=animal), f"A young {animal} is a {young}.")
    thing, colour = rng.choice(list(facts.COLOURS.items()))
    wordings = [
        "What colour is {t}?",
        "Which colour is {t}?",
        "Tell me what colour {t} is.",
        "What colour does {t} have?",
    ]
    return fact("nature", rng.choice(wordings).format(t=thing), f"{thing[0].upper() + thing[1:]} is {colour}.")


def category(rng: random.Random) -> Question:
    answer = rng.choice(list(facts.CATEGORIES))
    word = rng.choice(facts.CATEGORIES[answer])
    wordings = [
        "What kind of thing is {w}?",
        "What is {w}?",
        "What sort of thing is {w}?",
        "Tell me what {w} is.",
        "Do you know what {w} is?",
    ]
    thing = word if answer in ("a metal", "a planet", "a drink") else with_article(word)
    return fact("category", rng.choice(wordings).format(w=thing), f"{thing[0].upper() + thing[1:]} is {answer}.")


def spelling(rng: random.Random) -> Question:
    word = rng.choice(facts.WORDS)
    wordings = [
        "Spell the word {w}.",
        "Spell {w}.",
        "How do you spell {w}?",
        "How is the word {w} spelled?",
        "Please spell {w}.",
        "Say {w} letter by letter.",
    ]
    return fact("spelling", rng.choice(wordings).format(w=word), "-".join(word.upper()))


def backwards(rng: random.Random) -> Question:
    word = rng.choice(facts.REVERSIBLE)
    wordings = [
        "Write {w} backwards.",
        "Reverse the word {w}.",
        "What is {w} spelled backwards?",
        "Say {w} backwards.",
        "Write the word {w} in reverse.",
        "Turn the word {w} around.",
    ]
    return fact("backwards", rng.choice(wordings).format(w=word), word[::-1])


def number_words(rng: random.Random) -> Question:
    number = rng.randrange(1000) if rng.random() < 0.8 else rng.randrange(100)
    if rng.random() < 0.5:
        wording = rng.choice(["Write {} in words.", "Write the number {} in words.", "How do you say {} in words?"])
        return Question("number words", wording.format(number), in_words(number), f"{number} words")
    wording = rng.choice(["Write {} in digits.", "Write the number {} in digits.", "What is {} in digits?"])
    return Question("number words", wording.format(in_words(number)), str(number), f"{number} digits")


def reading(rng: random.Random) -> Question:
    """Two sentences about someone: find what is asked for."""
    name, thing, colour = rng.choice(facts.NAMES), rng.choice(facts.THINGS), rng.choice(facts.PAINTS)
    place = rng.choice(facts.PLACES_TO_LIVE)
    has, lives = f"{name} has a {colour} {thing}.", f"{name} lives in {place}."
    question, answer = rng.choice(
        [
            (f"Who has the {thing}?", f"{name} has the {thing}."),
            (f"What does {name} have?", f"{name} has a {colour} {thing}."),
            (f"What colour is the {thing}?", f"The {thing} is {colour}."),
            (f"Where does {name} live?", f"{name} lives in {place}."),
        ]
    )
    story = f"{has} {lives}" if rng.random() < 0.5 else f"{lives} {has}"
    return fact("reading", f"{story} {question}", answer)


# kind -> how to make a question of it
KINDS: dict[str, Callable[[random.Random], Question]] = {
    "addition": addition,
    "subtraction": subtraction,
    "multiplication": multiplication,
    "word problem": word_problem,
    "comparison": comparison,
    "counting": counting,
    "neighbour": neighbour,
    "units": units,
    "capital": capital,
    "opposite": opposite,
    "plural": plural,
    "nature": nature,
    "category": category,
    "spelling": spelling,
    "backwards": backwards,
    "number words": number_words,
    "reading": reading,
}

# kind -> how often it is asked while training: what is hard to learn is asked more often
WEIGHTS = {
    "addition": 3.5,
    "subtraction": 4.0,
    "multiplication": 3.5,
    "word problem": 1.5,
    "comparison": 3.0,
    "counting": 2.0,
    "neighbour": 2.0,
    "units": 2.5,
    "capital": 1.5,
    "opposite": 1.0,
    "plural": 0.7,
    "nature": 1.0,
    "category": 1.5,
    "spelling": 4.0,
    "backwards": 1.5,
    "number words": 3.0,
    "reading": 2.0,
}


def training_question(rng: random.Random) -> Question:
    """A question that may be trained on, its kind drawn by WEIGHTS."""
    make = KINDS[rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]]
    while True:
        question = make(rng)
        if question.split == "training":
            return question


def questions_of(split: str, count: int, seed: int) -> list[Question]:
    """Up to `count` different questions of every kind from a split that is not trained on."""
    chosen = []
    for kind, make in KINDS.items():
        rng = random.Random(f"{seed} {split} {kind}")
        prompts: dict[str, Question] = {}
        for _ in range(20_000):
            question = make(rng)
            if question.split == split:
                prompts.setdefault(question.prompt, question)
            if len(prompts) == count:
                break
        chosen += prompts.values()
    return chosen
