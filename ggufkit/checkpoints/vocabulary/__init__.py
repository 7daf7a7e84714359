"""A checkpoint's tokenizer files as the `tokenizer.*` metadata of a GGUF file.

    files.py            reads the JSON files and checks their shape
    added_tokens.py     what every tokenizer.json has in common: vocabulary, merges, added tokens
    lists.py            what becomes of a vocabulary: one entry per id
    bpe.py              byte-level BPE: tokenizer.json, or vocab.json and merges.txt   -> tokenizer model "gpt2"
    ranks.py            byte-level BPE as ranks: tiktoken's files, tekken.json         -> "gpt2"
    sentencepiece.py    tokenizer.model, or a tokenizer.json that keeps one as merges  -> "llama", "gemma4"
    unigram.py          unigram: a SentencePiece model or tokenizer.json               -> "t5"
    wordpiece.py        WordPiece: tokenizer.json or vocab.txt                         -> "bert"
    kinds.py            which of these a folder has
    reading.py          from a folder to its metadata
    pretokenizers.py    how text is cut before merging: the table of llama.cpp's names
    special_tokens.py   which token opens, ends, pads; whether it is added by itself
    ends.py             at which tokens generation stops
    families.py         what single families do otherwise
    chat_templates.py   chat templates
    corpus.txt          hard texts, separated by lines of =====, on which tokenizers are compared

Nothing found in the folder is run. What is written equals the output of llama.cpp's own converter; where it does not,
`read_vocabulary` says so.
"""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from ggufkit.checkpoints.vocabulary.families import VocabularyStyle
from ggufkit.checkpoints.vocabulary.files import MetadataValue, TokenizerFiles, Typed
from ggufkit.checkpoints.vocabulary.lists import VocabularyLists
from ggufkit.checkpoints.vocabulary.reading import Found, PretokenizerFinder, Vocabulary, read_vocabulary

__all__ = [
    "Found",
    "MetadataValue",
    "PretokenizerFinder",
    "TokenizerFiles",
    "Typed",
    "Vocabulary",
    "VocabularyLists",
    "VocabularyStyle",
    "hard_texts",
    "read_vocabulary",
    "tokenizer_metadata",
]


def tokenizer_metadata(
    folder: Path, config: Mapping[str, Any], *, style: str = VocabularyStyle.AUTO
) -> dict[str, MetadataValue]:
    """Turn the tokenizer files of `folder` into metadata: `read_vocabulary` without its remarks. Raises as it does."""
    return read_vocabulary(folder, config, style=style).metadata


def hard_texts() -> list[str]:
    """Give the texts on which a tokenizer must prove itself: scripts, spaces, numbers, code, marks, control tokens."""
    return resources.files(__name__).joinpath("corpus.txt").read_bytes().decode("utf-8").split("\n=====\n")
