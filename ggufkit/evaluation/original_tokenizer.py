"""The checkpoint's own tokenizer, run by a library that is not ours: the judge of token ids.

Never with `trust_remote_code`: nothing found in the folder is run.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ggufkit.checkpoints.vocabulary.ranks import is_ranks_file
from ggufkit.errors import CheckpointError, MissingDependencyError


class TokenizerMissingError(CheckpointError):
    """A folder has no tokenizer, or one that only code of its own would read: there is no judge."""


@dataclass(frozen=True, slots=True)
class OriginalTokenizer:
    """`encode` gives a text's ids, without anything put in front or behind; `judge` is the library that does it.

    It raises CheckpointError where the library cannot cut a text.

    `parses_special`: the spelling of a control token in a text becomes that token.
    """

    encode: Callable[[str], list[int]]
    judge: str
    parses_special: bool
    normalizes: bool


def open_tokenizer(folder: Path) -> OriginalTokenizer:
    """Open tokenizer.json by `tokenizers`, else tokenizer.model by `sentencepiece`, else by transformers.

    Raises:
        MissingDependencyError: the library that this folder needs is not installed.
        TokenizerMissingError: there is no tokenizer, or none that transformers reads.
        CheckpointError: tokenizer.json or tokenizer.model is damaged: its own library does not take it.
    """
    opening, path = _opening(folder)
    try:
        opened = opening(path)
    except ImportError as error:
        raise MissingDependencyError(f"{error.name} is not installed", hint="pip install 'ggufkit[hf]'") from None
    except Exception as error:  # each library raises its own kinds, some of them plain Exception
        kind = TokenizerMissingError if opening is _by_transformers else CheckpointError
        raise kind(f"{path}: its own library does not take the tokenizer: {error}") from error
    return replace(opened, encode=_saying_why(opened.encode, folder))


def _opening(folder: Path) -> tuple[Callable[[Path], OriginalTokenizer], Path]:
    """Say which library opens what; a tokenizer.model may also be a list of tiktoken's ranks."""
    if (path := folder / "tokenizer.json").is_file():
        return _by_tokenizers, path
    if (path := folder / "tokenizer.model").is_file() and not is_ranks_file(path):
        return _by_sentencepiece, path
    return _by_transformers, folder


def _saying_why(encode: Callable[[str], list[int]], folder: Path) -> Callable[[str], list[int]]:
    """Have a library's own exceptions become ours: some vocabularies cannot cut every text."""

    def cut(text: str) -> list[int]:
        try:
            return encode(text)
        except Exception as error:  # each library raises its own kinds, some of them plain Exception
            raise CheckpointError(f"{folder}: its own library cannot cut {text[:20]!r}: {error}") from error

    return cut


def _by_tokenizers(path: Path) -> OriginalTokenizer:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return OriginalTokenizer(
        lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids),
        "tokenizers",
        parses_special=True,
        normalizes=tokenizer.normalizer is not None,
    )


def _by_sentencepiece(path: Path) -> OriginalTokenizer:
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_file=str(path))
    return OriginalTokenizer(
        lambda text: list(processor.encode(text)), "sentencepiece", parses_special=False, normalizes=True
    )


def _by_transformers(folder: Path) -> OriginalTokenizer:
    tokenizer = transformers_tokenizer(folder)
    return OriginalTokenizer(
        lambda text: list(tokenizer.encode(text, add_special_tokens=False)),
        "transformers",
        parses_special=True,
        normalizes=True,
    )


def transformers_tokenizer(folder: Path) -> Any:
    """Open a folder's tokenizer with transformers, which also knows its chat template. Raises as transformers does."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
