"""Texts to verify with: hard ones to cut into tokens, and prose and code to compute logits of."""

from importlib import resources

_SEPARATOR = "\n=====\n"

PROSE = """\
The lighthouse keeper wrote in his log every evening: wind, clouds, ships. On the ninth of March he wrote nothing but a
single word, and nobody who read it later could say in which language it was. "Perhaps," said the harbour master, "he
meant to write down the time." The next entry is three days younger, and it describes the repair of a window pane.
"""
CODE = """\
def median(values: list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2
"""
QUESTION = "Q: A train leaves at 14:35 and arrives at 17:05. How long does the journey take?\nA:"
OTHER_SCRIPTS = "Der Nebel löste sich auf. Утром шёл снег. 雨が止んだら、出かけましょう。 ¿Qué hora es? ربما غدًا."

PROMPTS = (QUESTION, CODE, OTHER_SCRIPTS, PROSE)
"""What logits are computed of, from the shortest to the longest: lengths matter to windows and to rope."""


def hard_texts() -> list[str]:
    """Give the corpus on which a tokenizer must prove itself: scripts, spaces, numbers, code, marks, control tokens."""
    corpus = resources.files("ggufkit.checkpoints.vocabulary").joinpath("corpus.txt")
    return corpus.read_bytes().decode("utf-8").split(_SEPARATOR)
