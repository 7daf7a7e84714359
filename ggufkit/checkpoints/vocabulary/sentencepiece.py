"""SentencePiece vocabularies: from tokenizer.model, or from a tokenizer.json that keeps one as merges."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufkit.checkpoints.vocabulary.added_tokens import merged_added_tokens, read_base_vocabulary, read_merges
from ggufkit.checkpoints.vocabulary.files import CONVERTER_HINT, TokenizerFiles
from ggufkit.checkpoints.vocabulary.model_proto import ModelSettings, ModelType, read_settings
from ggufkit.checkpoints.vocabulary.token_types import TokenType, classify_added, padding_token
from ggufkit.errors import CheckpointError

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_ADDED_SCORE = -1000.0
_UNUSED_SCORE = -10000.0


@dataclass(slots=True)
class SentencePieceVocabulary:
    """The lists of a "llama" vocabulary: one entry per id."""

    tokens: list[str]
    scores: list[float]
    types: list[int]

    @classmethod
    def unused(cls, size: int) -> "SentencePieceVocabulary":
        """Make `size` rows that no text uses."""
        return cls(
            [padding_token(token_id) for token_id in range(size)],
            [_UNUSED_SCORE] * size,
            [int(TokenType.UNUSED)] * size,
        )

    def put(self, token_id: int, text: str, score: float, token_type: TokenType) -> None:
        """Write one row."""
        self.tokens[token_id], self.scores[token_id], self.types[token_id] = text, score, int(token_type)


def read_model(files: TokenizerFiles, path: Path, vocabulary_size: int | None) -> SentencePieceVocabulary:
    """Read tokenizer.model, then the tokens that the JSON files beside it add or rename.

    Rows that no token uses, up to `vocabulary_size`, become unused [PAD…] tokens; tokens beyond it are left out, as
    in llama.cpp's converter (conversion/base.py, _create_vocab_sentencepiece).

    Raises:
        CheckpointError: not a SentencePiece model, or not one that llama.cpp can apply to every text.
    """
    processor = _load(path)
    if (model_type := read_model_settings(path).model_type) != ModelType.BPE:
        name = ModelType(model_type).name if model_type in list(ModelType) else f"type {model_type}"
        raise CheckpointError(
            f"{path}: a SentencePiece model of type {name}; llama.cpp would cut texts into other tokens than it was "
            "trained with, since it only merges pairs (type BPE)",
            hint=CONVERTER_HINT,
        )
    size = vocabulary_size or processor.vocab_size()
    vocabulary = SentencePieceVocabulary.unused(size)
    for token_id in range(min(size, processor.vocab_size())):
        token_type = TokenType.NORMAL
        for is_type, its_type in (
            (processor.is_unknown, TokenType.UNKNOWN),
            (processor.is_control, TokenType.CONTROL),
            (processor.is_unused, TokenType.UNUSED),
            (processor.is_byte, TokenType.BYTE),
        ):
            if is_type(token_id):
                token_type = its_type
                break
        vocabulary.put(token_id, processor.id_to_piece(token_id), processor.get_score(token_id), token_type)

    for text, token_id in (files.added_tokens or {}).items():
        if token_id < size:
            vocabulary.put(token_id, text, _ADDED_SCORE, TokenType.USER_DEFINED)
    for token in files.config_added_tokens():
        if token.id < size:
            text, token_type = classify_added(token.text, special=token.special)
            vocabulary.put(token.id, text, _ADDED_SCORE, token_type)
    _check_bytes(path, vocabulary.tokens)
    return vocabulary


def read_model_settings(path: Path) -> ModelSettings:
    """Read what tokenizer.model says beside its pieces. Raises CheckpointError when it is not such a file."""
    try:
        return read_settings(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{path}: not a SentencePiece model: {error}") from error


def read_merging(files: TokenizerFiles, vocabulary_size: int | None) -> SentencePieceVocabulary:
    """Read a tokenizer.json that holds a SentencePiece vocabulary as a list of merges, and no tokenizer.model.

    llama.cpp merges the pair whose token has the highest score, so a token's score is minus the rank of the merge
    that makes it. (Its own converter gives every token the score -1000, with which its tokenizer merges from the left
    and cuts most texts differently from the original.)

    Raises:
        CheckpointError: ids with holes or duplicates, merges that name no token, or bytes without a token.
    """
    path = files.folder / "tokenizer.json"
    base = read_base_vocabulary(path, files.model)
    added = merged_added_tokens(files, base)
    size = max(vocabulary_size or 0, len(base))
    vocabulary = SentencePieceVocabulary.unused(max(size, 1 + max((token.id for token in added), default=-1)))
    if vocabulary_size and len(vocabulary.tokens) > vocabulary_size:
        raise CheckpointError(
            f"{path}: {len(vocabulary.tokens)} tokens, but config.json gives a vocab_size of {vocabulary_size}"
        )

    ranks: dict[str, int] = {}
    merges = read_merges(path, files.model, base)
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    last = len(merges)
    for text, token_id in base.items():
        token_type = TokenType.BYTE if _BYTE.fullmatch(text) else TokenType.NORMAL
        vocabulary.put(token_id, text, float(-ranks.get(text, last)), token_type)
    for token in added:
        text, token_type = classify_added(token.text, special=token.special)
        vocabulary.put(token.id, text, _ADDED_SCORE, token_type)
    _check_bytes(path, vocabulary.tokens)
    return vocabulary


def _check_bytes(path: Path, tokens: list[str]) -> None:
    """Refuse a vocabulary that cannot spell every byte: llama.cpp aborts at the first character that it lacks."""
    known = set(tokens)
    for byte in range(256):
        if f"<0x{byte:02X}>" not in known and not (byte < 0x80 and chr(byte) in known):
            raise CheckpointError(
                f"{path}: no token for the byte <0x{byte:02X}>; llama.cpp would abort at a character that the "
                "vocabulary lacks"
            )


def _load(path: Path) -> Any:
    from sentencepiece import SentencePieceProcessor

    try:
        return SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise CheckpointError(f"{path}: not a SentencePiece model: {error}") from error
