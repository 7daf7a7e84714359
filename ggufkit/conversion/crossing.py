"""A byte-level vocabulary made to betray where text was cut before merging: its tokens cross every place of a corpus.

A real vocabulary was learned from words that one pre-tokenizer cut, so it shows little of how another one cuts. This
one is learned from pieces of the corpus that know no words: whatever is not cut apart gets merged.
"""

import functools
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from ggufkit.checkpoints.vocabulary import hard_texts
from ggufkit.checkpoints.vocabulary.lists import VocabularyLists
from ggufkit.checkpoints.vocabulary.token_types import TokenType

_LENGTHS = (2, 3, 6)  # of the pieces, in characters
_SIZE = 60_000


# One of each kind of character that regular expressions tell apart, and what contractions are made of.
_KINDS = (
    *(
        "a",
        "Z",
        "é",
        "É",
        "ß",
        "ш",
        "Ш",
        "中",
        "か",
        "ก",
        "ع",
        "\u0301",
        "1",
        "7",
        "²",
        "Ⅷ",
        "٣",
        " ",
        " ",
        "\t",
        "\n",
        "\n",
    ),
    *("\r\n", "\u00a0", "\u3000", "\u200b", "'", "'s", "'Ll", '"', ".", "-", "/", "_", "(", "$", "+", "€", "…", "😀"),
    *("\u200d", "\x01"),
)
_SEQUENCES, _SEQUENCE_LENGTH = 40, 60
_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@functools.lru_cache(maxsize=1)
def probing_texts() -> tuple[str, ...]:
    """Give the hard corpus, and beside it what nobody writes: every kind of character next to every other."""
    chosen = random.Random(7)  # noqa: S311 - the same texts every time is what is wanted
    sequences = ["".join(chosen.choices(_KINDS, k=_SEQUENCE_LENGTH)) for _ in range(_SEQUENCES)]
    contractions = " ".join(f"x'{c} x'{c}{c}o X'{c.upper()} '{c}{c}" for c in _LETTERS)
    signs = "".join(f"a{c}b {c}c {c} d{c}{c}e 1{c}2{c}\n{c}\n\n {c}{c}/" for c in _PUNCTUATION)
    return (*hard_texts(), *sequences, contractions, signs)


@functools.lru_cache(maxsize=1)
def crossing_model(texts: Sequence[str]) -> Mapping[str, Any]:
    """Learn the vocabulary: the `model` of a tokenizer.json, in which merging reaches every token.

    So it makes no difference whether words that are tokens are merged or taken whole (`ignore_merges`).

    Raises:
        ImportError: the tokenizers library is not installed.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=_SIZE,
        min_frequency=1,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    pieces = [text[at : at + length] for text in texts for length in _LENGTHS for at in range(len(text))]
    tokenizer.train_from_iterator([*pieces, *texts], trainer)
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return _reachable(model)


def tokenizer_json(model: Mapping[str, Any], original: Mapping[str, Any]) -> str:
    """Put a model behind the normalizer and pre-tokenizer of another tokenizer.json."""
    kept = {key: original.get(key) for key in ("normalizer", "pre_tokenizer")}
    return json.dumps({"version": "1.0", "added_tokens": [], **kept, "post_processor": None, "model": model})


def as_lists(model: Mapping[str, Any]) -> VocabularyLists:
    """Spell a model as llama.cpp keeps it."""
    lists = VocabularyLists.unused("gpt2", len(model["vocab"]))
    for text, token_id in model["vocab"].items():
        lists.put(token_id, text, TokenType.NORMAL)
    lists.merges = [" ".join(pair) for pair in model["merges"]]
    return lists


def unreachable_tokens(model: Mapping[str, Any]) -> set[str]:
    """List the tokens that merging does not make of their own text: only `ignore_merges` can give them.

    Raises:
        ImportError: the tokenizers library is not installed.
    """
    from tokenizers import Tokenizer

    plain = {**model, "ignore_merges": False}
    tokenizer = Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], "model": plain}))
    texts = list(model["vocab"])
    encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return {text for text, encoding in zip(texts, encoded, strict=True) if encoding.ids != [model["vocab"][text]]}


def _reachable(model: Mapping[str, Any]) -> Mapping[str, Any]:
    while unreachable := unreachable_tokens(model):
        merges = [pair for pair in model["merges"] if not unreachable & {pair[0], pair[1], pair[0] + pair[1]}]
        made = {left + right for left, right in merges}
        texts = [text for text in model["vocab"] if len(text) == 1 or text in made]
        known = set(texts)
        merges = [pair for pair in merges if known >= {*pair}]
        model = {**model, "vocab": {text: token_id for token_id, text in enumerate(texts)}, "merges": merges}
    return {**model, "ignore_merges": False}
