"""What every tokenizer.json has in common: a vocabulary, merges, and tokens added on top."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ggufkit.checkpoints.vocabulary.files import MOST_TOKENS, AddedToken, TokenizerFiles, is_token_id
from ggufkit.errors import CheckpointError


def read_base_vocabulary(path: Path, model: Mapping[str, Any]) -> dict[str, int]:
    """Read `model.vocab`: text -> id.

    Raises:
        CheckpointError: it is missing, an id is no number, or two tokens share one.
    """
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise CheckpointError(f"{path}: no `vocab` in its model")
    ids = vocabulary.values()
    if set(map(type, ids)) == {int} and 0 <= min(ids) <= max(ids) < MOST_TOKENS and len(set(ids)) == len(ids):
        return vocabulary
    by_id: dict[int, str] = {}
    for text, token_id in vocabulary.items():
        if not is_token_id(token_id) or not 0 <= token_id < MOST_TOKENS:
            raise CheckpointError(f"{path}: the id of token {text!r} is {token_id!r}, expected a number from 0 up")
        if token_id in by_id:
            raise CheckpointError(f"{path}: tokens {by_id[token_id]!r} and {text!r} share the id {token_id}")
        by_id[token_id] = text
    return vocabulary


def merged_added_tokens(files: TokenizerFiles, base: Mapping[str, int]) -> list[AddedToken]:
    """Collect the added tokens of tokenizer.json, tokenizer_config.json and, without the former, added_tokens.json.

    A text that is listed twice keeps its first id and place, as in the tokenizers library. That library numbers the
    tokens that the vocabulary lacks by itself, in the order of the list, so a list that is out of order gets its ids
    in that order: they are what the model is used with.

    Raises:
        CheckpointError: an added token has the id of another one, or ids have a hole.
    """
    tokens: dict[str, AddedToken] = {}
    from_json = (
        [] if files.tokenizer else [AddedToken(i, t, False, False) for t, i in (files.added_tokens or {}).items()]
    )
    beside = sorted((*files.config_added_tokens(), *from_json), key=lambda token: token.id)
    for token in (*files.tokenizer_added_tokens(), *beside):
        tokens.setdefault(token.text, token)
    owners = {token_id: text for text, token_id in base.items()}
    for token in tokens.values():
        owner = owners.setdefault(token.id, token.text)
        if owner != token.text:
            raise CheckpointError(f"{files.folder}: added token {token.text!r} has the id {token.id} of {owner!r}")
        if base.get(token.text, token.id) != token.id:
            raise CheckpointError(
                f"{files.folder}: added token {token.text!r} has the ids {token.id} and {base[token.text]}"
            )
    return _numbered(files, base, list(tokens.values()))


def _numbered(files: TokenizerFiles, base: Mapping[str, int], tokens: list[AddedToken]) -> list[AddedToken]:
    """Give the tokens that the vocabulary lacks the ids that the tokenizers library gives them."""
    declared = {token.id: token for token in tokens if token.text not in base}
    numbered: list[AddedToken] = []
    next_id = len(base)
    for token in tokens:
        if token.text in base:
            numbered.append(token)
            next_id = max(next_id, token.id + 1)
            continue
        if next_id not in declared:
            raise CheckpointError(
                f"{files.folder}: added token {token.text!r} has the id {token.id}, but the next free one is {next_id}"
            )
        numbered.append(replace(token, id=next_id))
        next_id += 1
    return numbered


def read_merges(path: Path, model: Mapping[str, Any], vocabulary: Mapping[str, int]) -> list[list[str]]:
    """Read `model.merges`, written as "left right" or as [left, right].

    Raises:
        CheckpointError: a merge is malformed, or names or makes a token that the vocabulary lacks.
    """
    entries = model.get("merges")
    if not isinstance(entries, list):
        raise CheckpointError(f"{path}: no `merges` in its model")
    pairs = [entry.split(" ") if isinstance(entry, str) else entry for entry in entries]
    for rank, pair in enumerate(pairs):
        if type(pair) is not list or len(pair) != 2 or type(pair[0]) is not str or type(pair[1]) is not str:
            raise CheckpointError(f"{path}: merge {rank} is not a pair: {entries[rank]!r}")
    check_merges(path, pairs, vocabulary)
    return pairs


def check_merges(path: Path, merges: list[list[str]], vocabulary: Mapping[str, int]) -> None:
    """Refuse merges of tokens that do not exist. Raises CheckpointError."""
    for rank, (left, right) in enumerate(merges):
        if left not in vocabulary or right not in vocabulary or left + right not in vocabulary:
            missing = next(text for text in (left, right, left + right) if text not in vocabulary)
            raise CheckpointError(f"{path}: merge {rank} ({left!r} + {right!r}) names no token: {missing!r}")
