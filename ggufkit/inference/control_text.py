"""Text that is spelled like control tokens: found, and tokenized as the text that it is."""

import re
from collections.abc import Iterator, Sequence

from ggufkit.inference.loaded_model import LoadedModel


def control_spellings(engine: LoadedModel, text: str) -> set[str]:
    """Return the control tokens that a text spells."""
    tokens = engine.tokenize(text, parse_special=True)
    return {engine.token_text(token) for token in controls_in(engine, tokens)}


def controls_in(engine: LoadedModel, tokens: Sequence[int]) -> list[int]:
    """Return the control tokens among tokens, in their order."""
    return [token for token in tokens if engine.is_control(token)]


def alternatives(spellings: set[str]) -> re.Pattern[str]:
    """Match any of the spellings, the longest first, as llama.cpp does."""
    return re.compile("|".join(re.escape(text) for text in sorted(spellings, key=lambda text: (-len(text), text))))


def tokenize_marked(engine: LoadedModel, text: str, pattern: re.Pattern[str], left: str, right: str) -> list[int]:
    """Split a text at its control tokens, but for the marked ones, and tokenize what is between as plain text.

    This is what llama.cpp does with the whole text, so where nothing is marked the tokens are the same.
    """
    marked = re.compile(f"{left}(?:{pattern.pattern}){right}?|(?:{pattern.pattern}){right}")
    controls = engine.control_tokens()
    special = alternatives(set(controls)) if controls else re.compile("(?!)")
    protected: set[int] = set()  # positions in the text without markers at which a marked token begins
    plain = ""
    at = 0
    for found in marked.finditer(text):
        plain += text[at : found.start()].replace(left, "").replace(right, "")
        protected.add(len(plain))
        plain += found[0].strip(left + right)
        at = found.end()
    plain += text[at:].replace(left, "").replace(right, "")

    tokens: list[int] = []
    run = 0
    strips_right = False
    for found in _outside(special, plain, protected):
        token = controls[found[0]]
        strip_left, strip_right = engine.strips_spaces(token)
        tokens += _plain_tokens(engine, plain[run : found.start()], strips_right, strip_left)
        tokens.append(token)
        run, strips_right = found.end(), strip_right
    return tokens + _plain_tokens(engine, plain[run:], strips_right, False)


def _outside(special: re.Pattern[str], text: str, protected: set[int]) -> Iterator[re.Match[str]]:
    at = 0
    while found := special.search(text, at):
        if found.start() in protected:
            at = found.start() + 1
        else:
            yield found
            at = found.end()


def _plain_tokens(engine: LoadedModel, text: str, strip_left: bool, strip_right: bool) -> list[int]:
    text = text.lstrip() if strip_left else text
    text = text.rstrip() if strip_right else text
    return engine.tokenize(text, parse_special=False) if text else []
