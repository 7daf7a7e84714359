"""At which tokens generation must stop: the union of what the checkpoint's files say."""

import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ggufkit.checkpoints.vocabulary.files import MetadataValue, is_token_id, read_json_object
from ggufkit.checkpoints.vocabulary.lists import VocabularyLists
from ggufkit.checkpoints.vocabulary.special_tokens import ID_KEYS
from ggufkit.checkpoints.vocabulary.token_types import ENDS_BY_NAME, TokenType
from ggufkit.errors import CheckpointError

_ROLES = ("eos", "eot", "eom")  # the keys that a GGUF file has for them; of each, llama.cpp stops at one token
_LLAMA_CPP_TAKES = 11  # for the end of a byte-level text, where a file names no token for it


def end_metadata(
    folder: Path, config: Mapping[str, Any], lists: VocabularyLists, known: Mapping[str, MetadataValue]
) -> tuple[dict[str, MetadataValue], tuple[str, ...]]:
    """Give the tokens at which llama.cpp would not stop by itself the roles that are left: eos, eot, eom.

    It stops at the tokens of these roles, and at those that it knows by their texts. `known` is what other files give.

    Raises:
        CheckpointError: an `eos_token_id` is no id. A generation_config.json that is no JSON object says nothing.
    """
    wanted = [token_id for token_id in _wanted(folder, config) if token_id < len(lists.tokens)]
    texts = set(lists.tokens)
    # Where these two are, <|end|> ends a part of a message only (gpt-oss, Solar).
    parts = {"<|return|>", "<|call|>"} <= texts or {"<|calls|>", "<|flush|>"} <= texts
    names = ENDS_BY_NAME - {"<|end|>"} if parts else ENDS_BY_NAME
    stops = {known.get(ID_KEYS[role]) for role in _ROLES}
    missing = [token_id for token_id in wanted if token_id not in stops and lists.tokens[token_id] not in names]
    free = [role for role in _ROLES if ID_KEYS[role] not in known]
    found: dict[str, MetadataValue] = {}
    if "eos" in free:
        free.remove("eos")
        first = next(iter(wanted), _ending_by_name(lists, names))
        if first is not None and (wanted or lists.model == "gpt2"):
            found[ID_KEYS["eos"]] = first
            missing = [token_id for token_id in missing if token_id != first]
        elif lists.model == "gpt2" and len(lists.tokens) > _LLAMA_CPP_TAKES:
            taken = f"{lists.tokens[_LLAMA_CPP_TAKES]!r} (id {_LLAMA_CPP_TAKES})"
            return found, (f"no file says which token ends a text; llama.cpp takes {taken} for it",)
    for role, token_id in zip(free, missing, strict=False):
        found[ID_KEYS[role]] = token_id
    if left := missing[len(free) :]:
        texts_left = ", ".join(repr(lists.tokens[token_id]) for token_id in left)
        return found, (f"generation also stops at {texts_left}, for which a GGUF file has no place",)
    return found, ()


def _ending_by_name(lists: VocabularyLists, names: Collection[str]) -> int | None:
    """Find a control token whose text says that something ends; without one, llama.cpp would take some word for it."""
    pairs = enumerate(zip(lists.tokens, lists.types, strict=True))
    return next((token_id for token_id, (text, kind) in pairs if kind == TokenType.CONTROL and text in names), None)


def _wanted(folder: Path, config: Mapping[str, Any]) -> list[int]:
    path = folder / "generation_config.json"
    found: dict[int, None] = {}
    generation: Mapping[str, Any] = {}
    with contextlib.suppress(CheckpointError):  # whoever describes the model warns of it
        generation = read_json_object(path) or {}
    for source, content in ((path, generation), (folder / "config.json", config)):
        value = content.get("eos_token_id")
        for token_id in value if isinstance(value, list) else [value]:
            if is_token_id(token_id):
                if token_id >= 0:
                    found[token_id] = None
            elif token_id is not None:
                raise CheckpointError(f"{source}: `eos_token_id` is {value!r:.60}, expected an id or a list of ids")
    return list(found)
