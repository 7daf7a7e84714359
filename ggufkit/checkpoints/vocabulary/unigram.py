"""Unigram vocabularies, T5's and XLM-Roberta's: from a SentencePiece model, or from tokenizer.json."""

import base64
import binascii
import math
import struct
from pathlib import Path
from typing import Any

from ggufkit.checkpoints.vocabulary.added_tokens import merged_added_tokens
from ggufkit.checkpoints.vocabulary.files import MOST_TOKENS, AddedToken, TokenizerFiles, flat_stages
from ggufkit.checkpoints.vocabulary.lists import VocabularyLists, check_room
from ggufkit.checkpoints.vocabulary.model_proto import ModelSettings
from ggufkit.checkpoints.vocabulary.sentencepiece import BYTE, add_tokens, load_pieces, read_model_settings
from ggufkit.checkpoints.vocabulary.token_types import TokenType, classify_added
from ggufkit.errors import CheckpointError

FAIRSEQ_MODEL = "sentencepiece.bpe.model"  # as fairseq named it, with fairseq's special tokens in front
_FAIRSEQ_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
_MASK = "<mask>"
_NO_BYTES = (
    "llama.cpp has no byte fallback for unigram vocabularies: characters that this one lacks become its token for "
    "the unknown, where the original spells them by bytes"
)
_NO_LINE_BREAKS = (
    "the tokenizer has no table that turns tabs and line breaks into spaces; llama.cpp takes them for unknown "
    "characters, where the original takes them for spaces"
)


def read_unigram_model(files: TokenizerFiles, path: Path, vocabulary_size: int | None) -> VocabularyLists:
    """Read a SentencePiece model of type unigram, then the tokens that the JSON files beside it add.

    A file named sentencepiece.bpe.model gets fairseq's order: four special tokens of its own replace the first three
    pieces, and a mask comes last (transformers.XLMRobertaTokenizer).

    Raises:
        CheckpointError: not such a model, or one with spaces at the ends of words.
    """
    settings = read_model_settings(path)
    pieces, roles = load_pieces(path)
    if path.name == FAIRSEQ_MODEL:
        count = max(vocabulary_size or 0, len(pieces))
        lists = VocabularyLists.unused("t5", count, scored=True)
        for token_id, text in enumerate(_FAIRSEQ_TOKENS):
            kind = TokenType.UNKNOWN if text == "<unk>" else TokenType.CONTROL
            lists.put(token_id, text, kind, 0.0)
        for index, (text, score, kind) in enumerate(pieces[3 : count - 1], start=3):
            lists.put(index + 1, text, kind, score)
        if len(pieces) + 1 < count:
            lists.put(len(pieces) + 1, _MASK, TokenType.CONTROL, 0.0)
        lists.roles = {"bos": 0, "eos": 2, "unk": 3, "pad": 1}
    else:
        count = vocabulary_size or len(pieces)
        lists = VocabularyLists.unused("t5", count, scored=True)
        for token_id, (text, score, kind) in enumerate(pieces[:count]):
            lists.put(token_id, text, kind, score)
        lists.roles = roles
    add_tokens(files, lists)
    return _with_settings(lists, path, settings)


def read_unigram_json(files: TokenizerFiles, vocabulary_size: int | None) -> VocabularyLists:
    """Read the vocabulary of a tokenizer.json whose model is Unigram.

    Raises:
        CheckpointError: a malformed file, clashing ids, more tokens than config.json's vocab_size, or a way of
            normalizing or cutting text that llama.cpp does not have.
    """
    path = files.folder / "tokenizer.json"
    pieces = _pieces(path, files.model.get("vocab"))
    base = {text: token_id for token_id, (text, _) in enumerate(pieces)}
    if len(base) < len(pieces):
        raise CheckpointError(f"{path}: two pieces of its `vocab` have the same text")
    added = merged_added_tokens(files, base)
    ids = {**base, **{token.text: token.id for token in added}}
    lists = VocabularyLists.unused("t5", check_room(path, ids, vocabulary_size), scored=True)
    byte_fallback = files.model.get("byte_fallback") is True
    for token_id, (text, score) in enumerate(pieces):
        kind = TokenType.BYTE if byte_fallback and BYTE.fullmatch(text) else TokenType.NORMAL
        lists.put(token_id, text, kind, score)
    _put_added(lists, added, pieces)
    unknown = files.model.get("unk_id")
    if isinstance(unknown, int) and 0 <= unknown < len(pieces):
        lists.put(unknown, pieces[unknown][0], TokenType.UNKNOWN, pieces[unknown][1])
        lists.roles["unk"] = unknown
    return _with_settings(lists, path, _settings(path, files.tokenizer or {}, byte_fallback=byte_fallback))


def _pieces(path: Path, vocabulary: object) -> list[tuple[str, float]]:
    if not isinstance(vocabulary, list) or not vocabulary or len(vocabulary) > MOST_TOKENS:
        raise CheckpointError(f"{path}: no `vocab` in its model, expected a list of pieces and scores")
    for token_id, entry in enumerate(vocabulary):
        if (
            not isinstance(entry, list)
            or len(entry) != 2
            or not isinstance(entry[0], str)
            or not isinstance(entry[1], int | float)
            or not math.isfinite(entry[1])
            or abs(entry[1]) > 3e38
        ):
            raise CheckpointError(f"{path}: piece {token_id} is {entry!r:.60}, expected a text and a score")
    return [(text, float(score)) for text, score in vocabulary]


def _put_added(lists: VocabularyLists, added: list[AddedToken], pieces: list[tuple[str, float]]) -> None:
    for token in added:
        text, kind = classify_added(token.text, special=token.special)
        score = pieces[token.id][1] if token.id < len(pieces) else -1000.0
        lists.put(token.id, text, kind, score)


def _settings(path: Path, tokenizer: dict[str, Any], *, byte_fallback: bool) -> ModelSettings:
    """Read from normalizer and pre-tokenizer what a SentencePiece model would hold as its settings."""
    charsmap, prefix, squeezes, splits = b"", False, False, False
    for part in flat_stages(tokenizer.get("normalizer"), "normalizers"):
        match part.get("type"):
            case "Precompiled" if not charsmap:
                charsmap = _decoded(path, part.get("precompiled_charsmap"))
            case "Replace" if part.get("pattern") == {"Regex": " {2,}"} and part.get("content") in (" ", "▁"):
                squeezes = True
            case "Replace" if part.get("pattern") in ({"String": " "}, {"Regex": " "}) and part.get("content") == "▁":
                pass
            case "Prepend" if part.get("prepend") == "▁":
                prefix = True
            case "Strip":
                pass  # llama.cpp drops spaces at both ends where it squeezes them
            case kind:
                raise CheckpointError(f"{path}: llama.cpp has no counterpart of its normalizer {kind} for Unigram")
    for part in flat_stages(tokenizer.get("pre_tokenizer"), "pretokenizers"):
        match part.get("type"):
            case "WhitespaceSplit":
                squeezes = splits = True
            case "Metaspace" if part.get("replacement", "▁") == "▁":
                scheme = part.get("prepend_scheme", "always" if part.get("add_prefix_space", True) else "never")
                prefix = scheme != "never"
            case kind:
                raise CheckpointError(f"{path}: llama.cpp has no counterpart of its pre-tokenizer {kind} for Unigram")
    return ModelSettings(
        byte_fallback=byte_fallback,
        precompiled_charsmap=charsmap,
        add_dummy_prefix=prefix,
        remove_extra_whitespaces=squeezes,
        splits_at_whitespace=splits,
    )


def _with_settings(lists: VocabularyLists, path: Path, settings: ModelSettings) -> VocabularyLists:
    if settings.space_as_suffix:
        raise CheckpointError(f"{path}: its pieces hold spaces at the ends of words; llama.cpp wants them in front")
    charsmap = settings.precompiled_charsmap
    if charsmap:
        _check_charsmap(path, charsmap)
        lists.settings["tokenizer.ggml.precompiled_charsmap"] = charsmap
    elif settings.splits_at_whitespace:
        lists.remarks.append(_NO_LINE_BREAKS)
    if settings.byte_fallback:
        lists.remarks.append(_NO_BYTES)
    lists.settings["tokenizer.ggml.add_space_prefix"] = settings.add_dummy_prefix
    lists.settings["tokenizer.ggml.remove_extra_whitespaces"] = settings.remove_extra_whitespaces
    return lists


def _decoded(path: Path, text: object) -> bytes:
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError) as error:
        raise CheckpointError(f"{path}: `precompiled_charsmap` is not base64: {error}") from error


def _check_charsmap(path: Path, charsmap: bytes) -> None:
    """Refuse a table that llama.cpp would read beyond its end: the size of a trie, the trie, texts ended by zeros."""
    trie = struct.unpack_from("<I", charsmap)[0] if len(charsmap) >= 4 else 0
    if len(charsmap) < 8 or trie < 4 or trie % 4 or trie + 4 >= len(charsmap) or charsmap[-1]:
        raise CheckpointError(f"{path}: its table of normalized characters (`precompiled_charsmap`) is damaged")
    ends = range(4, 4 + trie, 4)
    texts = len(charsmap) - 4 - trie
    for place in ends:
        node = struct.unpack_from("<I", charsmap, place)[0]
        # A leaf's value (bit 31) is where its replacement starts.
        if node & 1 << 31 and (node & 0x7FFFFFFF) >= texts:
            raise CheckpointError(f"{path}: its table of normalized characters points beyond its end")
