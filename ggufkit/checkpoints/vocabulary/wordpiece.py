"""WordPiece vocabularies, BERT's: from tokenizer.json, or from the vocab.txt of older checkpoints.

llama.cpp spells them the other way round: a piece that begins a word gets the sign for a space, and one that goes on
loses its `##`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ggufkit.checkpoints.vocabulary.added_tokens import merged_added_tokens, read_base_vocabulary
from ggufkit.checkpoints.vocabulary.files import AddedToken, MetadataValue, TokenizerFiles, read_text
from ggufkit.checkpoints.vocabulary.lists import VocabularyLists, check_room
from ggufkit.checkpoints.vocabulary.special_tokens import ID_KEYS, special_names
from ggufkit.checkpoints.vocabulary.token_types import TokenType, classify_added
from ggufkit.errors import CheckpointError

_GOES_ON, _SPACE = "##", "▁"
_LOWERCASE = "tokenizer.ggml.normalizer.lowercase"
_STRIP_ACCENTS = "tokenizer.ggml.normalizer.strip_accents"

_OWN_ACCENTS = (
    "llama.cpp strips accents in a way of its own: Hangul, and words with spacing vowel signs (Hindi, Tamil, Burmese), "
    "get other token ids than in the original"
)

# The class transformers.BertTokenizer names its tokens like this where the files do not.
_DEFAULT_NAMES = {"cls": "[CLS]", "sep": "[SEP]", "unk": "[UNK]", "pad": "[PAD]", "mask": "[MASK]"}
_BERT_ROLES = {"bos": "cls", "eos": "sep", "unk": "unk", "sep": "sep", "pad": "pad", "mask": "mask"}


def read_wordpiece_json(files: TokenizerFiles, vocabulary_size: int | None) -> VocabularyLists:
    """Read the vocabulary of a tokenizer.json whose model is WordPiece.

    Raises:
        CheckpointError: a malformed file, clashing ids, more tokens than config.json's vocab_size, or a way of
            cutting text that llama.cpp does not have.
    """
    path = files.folder / "tokenizer.json"
    _check_structure(path, files.tokenizer or {})
    base = read_base_vocabulary(path, files.model)
    lists = _assemble(files, base, merged_added_tokens(files, base), vocabulary_size)
    normalizer = (files.tokenizer or {}).get("normalizer") or {}
    strips = normalizer.get("strip_accents")
    if normalizer.get("lowercase", True) if strips is None else strips:
        lists.remarks.append(_OWN_ACCENTS)
    return lists


def read_vocab_txt(files: TokenizerFiles, vocabulary_size: int | None) -> VocabularyLists:
    """Read vocab.txt, one piece in each line. Raises CheckpointError, as above."""
    path = files.folder / "vocab.txt"
    base: dict[str, int] = {}
    for number, line in enumerate(read_text(path).removesuffix("\n").split("\n")):
        text = line.removesuffix("\r")
        if text in base:
            raise CheckpointError(f"{path}: lines {base[text] + 1} and {number + 1} hold the same piece {text!r}")
        base[text] = number
    settings = files.tokenizer_config or {}
    if settings.get("tokenize_chinese_chars", True) is not True:
        raise CheckpointError(f"{path}: `tokenize_chinese_chars` is off, but llama.cpp always cuts between them")
    added = {token.text: token for token in merged_added_tokens(files, base)}
    names = special_names(files) | set(_DEFAULT_NAMES.values())
    for text in names & base.keys():
        added.setdefault(text, AddedToken(base[text], text, special=True, normalized=False))
    lists = _assemble(files, base, list(added.values()), vocabulary_size)
    lowercase, strip_accents = settings.get("do_lower_case", True), settings.get("strip_accents")
    lists.settings[_LOWERCASE] = bool(lowercase)
    lists.settings[_STRIP_ACCENTS] = bool(lowercase if strip_accents is None else strip_accents)
    if lists.settings[_STRIP_ACCENTS]:
        lists.remarks.append(_OWN_ACCENTS)
    return lists


def bert_roles(files: TokenizerFiles, lists: VocabularyLists) -> dict[str, MetadataValue]:
    """Find the ids of BERT's tokens by their names: without a first and a last token llama.cpp aborts.

    Raises:
        CheckpointError: the vocabulary has no token to open or to close a text with, or none for unknown words.
    """
    ids = {text: token_id for token_id, text in enumerate(lists.tokens)}
    content = files.tokenizer_config or {}
    found: dict[str, MetadataValue] = {}
    for role, name in _BERT_ROLES.items():
        entry = content.get(f"{name}_token")
        text = entry.get("content") if isinstance(entry, dict) else entry
        text = text if isinstance(text, str) else _DEFAULT_NAMES[name]
        if text in ids:
            found[ID_KEYS[role]] = ids[text]
        elif role in ("bos", "sep", "unk"):
            raise CheckpointError(f"{files.folder}: the WordPiece vocabulary has no token {text!r}, which BERT needs")
    return found


def _assemble(
    files: TokenizerFiles, base: Mapping[str, int], added: list[AddedToken], vocabulary_size: int | None
) -> VocabularyLists:
    ids = {**base, **{token.text: token.id for token in added}}
    size = check_room(files.folder, ids, vocabulary_size)
    lists = VocabularyLists.unused("bert", size)
    lists.tokens = [_spelled(text) for text in lists.tokens]
    for text, token_id in base.items():
        lists.put(token_id, _spelled(text), TokenType.NORMAL)
    for token in added:
        text, token_type = classify_added(token.text, special=token.special)
        lists.put(token.id, text, token_type)
    return lists


def _spelled(text: str) -> str:
    return text[len(_GOES_ON) :] if text.startswith(_GOES_ON) else _SPACE + text


def _check_structure(path: Path, tokenizer: Mapping[str, Any]) -> None:
    """Refuse what llama.cpp would cut otherwise (llama-vocab.cpp, llm_tokenizer_wpm_session)."""
    model = tokenizer.get("model") or {}
    prefix = model.get("continuing_subword_prefix", _GOES_ON)
    if prefix != _GOES_ON:
        raise CheckpointError(f"{path}: pieces that go on begin with {prefix!r}; llama.cpp knows only {_GOES_ON!r}")
    stage = tokenizer.get("pre_tokenizer")
    kind = stage.get("type") if isinstance(stage, dict) else None
    if kind != "BertPreTokenizer":
        raise CheckpointError(f"{path}: WordPiece with the pre-tokenizer {kind}; llama.cpp knows only BertPreTokenizer")
    normalizer = tokenizer.get("normalizer")
    kind = normalizer.get("type") if isinstance(normalizer, dict) else None
    if not isinstance(normalizer, dict) or kind != "BertNormalizer":
        raise CheckpointError(f"{path}: WordPiece with the normalizer {kind}; llama.cpp knows only BertNormalizer")
    for flag in ("clean_text", "handle_chinese_chars"):
        if normalizer.get(flag, True) is not True:
            raise CheckpointError(f"{path}: its normalizer has `{flag}` off, which llama.cpp always does")
