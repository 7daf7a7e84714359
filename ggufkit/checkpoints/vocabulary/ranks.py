"""Byte-level vocabularies kept as ranks of byte strings: tiktoken's files, and Mistral's tekken.json.

Their libraries join the two neighbours whose joint has the lowest rank. As merges that is every way to cut a token in
two others, in the order of the token's rank.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ggufkit.checkpoints.vocabulary.bpe import BYTE_CHARACTERS
from ggufkit.checkpoints.vocabulary.files import (
    MOST_TOKENS,
    PRE_HINT,
    TokenizerFiles,
    is_token_id,
    read_json_object,
)
from ggufkit.checkpoints.vocabulary.lists import VocabularyLists, check_room
from ggufkit.checkpoints.vocabulary.pretokenizers import TABLE
from ggufkit.checkpoints.vocabulary.token_types import TokenType, classify_added
from ggufkit.errors import CheckpointError

_LINE = re.compile(rb"([A-Za-z0-9+/]+={0,2}) (\d{1,8})\r?")
_ROLES = {"<s>": "bos", "</s>": "eos", "<unk>": "unk", "<pad>": "pad"}

# The regular expression is in the Python code of the class that the checkpoint names: that is not run.
_CLASSES = {
    "ChatGLM4Tokenizer": "glm4",
    "QWenTokenizer": "qwen2",
    "HYTokenizer": "hunyuan",
    "TikTokenTokenizer": "kimi-k2",
    "Arcade100kTokenizer": "stablelm2",
}
# Which tokens QWenTokenizer adds in its code, after the last rank.
_QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{n}|>" for n in range(205)))


def ranks_file(folder: Path) -> Path | None:
    """Find tiktoken's file: `*.tiktoken`, or a tokenizer.model or tiktoken.model that holds such lines."""
    named = sorted(folder.glob("*.tiktoken"))
    if named:
        return named[0]
    candidates = (folder / "tokenizer.model", folder / "tiktoken.model")
    return next((path for path in candidates if path.is_file() and is_ranks_file(path)), None)


def is_ranks_file(path: Path) -> bool:
    """Tell tiktoken's lines from a SentencePiece model, which may have the same name. Raises CheckpointError."""
    try:
        with path.open("rb") as file:
            return _LINE.fullmatch(file.readline(4096).rstrip(b"\n")) is not None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


def read_tiktoken(files: TokenizerFiles, path: Path, vocabulary_size: int | None) -> VocabularyLists:
    """Read tiktoken's file, and the tokens that tokenizer_config.json adds.

    Raises:
        CheckpointError: a malformed line, a rank or text that is there twice, or more tokens than there is room for.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line:
            continue
        match = _LINE.fullmatch(line)
        token = _bytes_of(path, match[1], f"line {number}") if match else b""
        if match is None or not token or token in ranks:
            raise CheckpointError(
                f"{path}: line {number} is no token and its rank, or one that is there already: {line[:40]!r}"
            )
        ranks[token] = int(match[2])
    special = {token.text: token.id for token in files.config_added_tokens()}
    if not special and _class(files) == "QWenTokenizer":
        first = 1 + max(ranks.values(), default=-1)
        special = {text: first + index for index, text in enumerate(_QWEN_SPECIAL)}
    control = {token.text: token.special for token in files.config_added_tokens()}
    lists = _assemble(path, ranks, special, vocabulary_size)
    for text, token_id in special.items():
        lists.put(token_id, *classify_added(text, special=control.get(text, True)))
    return lists


def pretokenizer_of_ranks(files: TokenizerFiles) -> str:
    """Name the pre-tokenizer by the class that the checkpoint names.

    Raises:
        CheckpointError: the class is not known, or tekken.json holds a regular expression that llama.cpp does not have.
    """
    if (files.folder / "tekken.json").is_file():
        raise CheckpointError(
            f"{files.folder / 'tekken.json'}: llama.cpp has no pre-tokenizer for its `pattern`", hint=PRE_HINT
        )
    name = _class(files)
    if name not in _CLASSES:
        raise CheckpointError(
            f"{files.folder}: ranks of tokens without tokenizer.json, and tokenizer_class {name!r} does not tell how "
            f"text is cut before merging (known: {', '.join(_CLASSES)})",
            hint=PRE_HINT,
        )
    return _CLASSES[name]


def read_tekken(files: TokenizerFiles, vocabulary_size: int | None) -> VocabularyLists:
    """Read tekken.json.

    Special tokens come first; of the ranks, as many are used as `default_vocab_size` leaves room for.

    Raises:
        CheckpointError: a malformed file, or a regular expression that llama.cpp does not have.
    """
    path = files.folder / "tekken.json"
    content = read_json_object(path) or {}
    config = content.get("config")
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: no `config`")
    size, reserved = (_count(path, config, key) for key in ("default_vocab_size", "default_num_special_tokens"))
    entries = content.get("vocab")
    if not isinstance(entries, list) or not 0 <= reserved <= size:
        raise CheckpointError(f"{path}: no list `vocab`, or more special tokens than tokens")
    ranks: dict[bytes, int] = {}
    for entry in entries[: size - reserved]:
        rank = entry.get("rank") if isinstance(entry, dict) else None
        text = entry.get("token_bytes") if isinstance(entry, dict) else None
        token = _bytes_of(path, text.encode(), f"rank {rank}") if isinstance(text, str) else b""
        if not is_token_id(rank) or not 0 <= rank < size - reserved or not token or token in ranks:
            raise CheckpointError(f"{path}: an entry of `vocab` is no new token with a rank: {entry!r:.60}")
        ranks[token] = rank + reserved
    special = _tekken_special(path, content.get("special_tokens"), reserved)
    lists = _assemble(path, ranks, special, vocabulary_size)
    for text, token_id in special.items():
        lists.put(token_id, text, TokenType.CONTROL)
        if text in _ROLES:
            lists.roles[_ROLES[text]] = token_id
    lists.settings |= {"tokenizer.ggml.add_bos_token": "bos" in lists.roles, "tokenizer.ggml.add_eos_token": False}
    row = next((row for row in TABLE if row.stages[0] == ("Split", config.get("pattern"))), None)
    if row is not None:
        lists.pretokenizer = row.name
        lists.remarks += [row.differs] if row.differs else []
    return lists


def _tekken_special(path: Path, entries: object, reserved: int) -> dict[str, int]:
    special = {f"<SPECIAL_{rank}>": rank for rank in range(reserved)}
    if entries is None:
        entries = [{"rank": rank, "token_str": text} for rank, text in enumerate(("<unk>", "<s>", "</s>"))]
    if not isinstance(entries, list):
        raise CheckpointError(f"{path}: `special_tokens` is not a list")
    names: dict[int, str] = {}
    for entry in entries:
        rank = entry.get("rank") if isinstance(entry, dict) else None
        text = entry.get("token_str") if isinstance(entry, dict) else None
        if not is_token_id(rank) or not 0 <= rank < reserved or not isinstance(text, str) or rank in names:
            raise CheckpointError(f"{path}: a special token needs a text and a rank of its own, found {entry!r:.60}")
        names[rank] = text
    return {names.get(rank, text): rank for text, rank in special.items()}


def _assemble(
    path: Path, ranks: Mapping[bytes, int], special: Mapping[str, int], vocabulary_size: int | None
) -> VocabularyLists:
    spelled = {token: _spelled(token) for token in ranks}
    ids = {spelled[token]: rank for token, rank in ranks.items()}
    taken = set(ids.values())
    if len(taken) < len(ids) or any(token_id in taken for token_id in special.values()):
        raise CheckpointError(f"{path}: two tokens have one id")
    lists = VocabularyLists.unused("gpt2", check_room(path, {**special, **ids}, vocabulary_size))
    for text, token_id in ids.items():
        lists.put(token_id, text, TokenType.NORMAL)
    lists.merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        halves = ((token[:at], token[at:]) for at in range(1, len(token)))
        pairs = sorted(
            (ranks[left], ranks[right], left, right) for left, right in halves if {left, right} <= ranks.keys()
        )
        lists.merges += [f"{spelled[left]} {spelled[right]}" for _, _, left, right in pairs]
    return lists


def _spelled(token: bytes) -> str:
    return "".join(BYTE_CHARACTERS[byte] for byte in token)


def _bytes_of(path: Path, text: bytes, place: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise CheckpointError(f"{path}: {place} is not base64: {error}") from error


def _count(path: Path, config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not is_token_id(value) or not 0 <= value <= MOST_TOKENS:
        raise CheckpointError(f"{path}: `{key}` is {json.dumps(value)[:40]}, expected a number of tokens")
    return value


def _class(files: TokenizerFiles) -> str:
    return str((files.tokenizer_config or {}).get("tokenizer_class"))
