"""Which token opens, ends or pads a text, and whether the tokenizer adds it by itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ggufkit.checkpoints.vocabulary.files import AddedToken, MetadataValue, TokenizerFiles, is_token_id

# Names in tokenizer_config.json and config.json -> GGUF keys. llama.cpp has no key for `cls`.
ID_KEYS = {
    "bos": "tokenizer.ggml.bos_token_id",
    "eos": "tokenizer.ggml.eos_token_id",
    "unk": "tokenizer.ggml.unknown_token_id",
    "sep": "tokenizer.ggml.seperator_token_id",  # spelled like this in the format
    "pad": "tokenizer.ggml.padding_token_id",
    "mask": "tokenizer.ggml.mask_token_id",
    "eot": "tokenizer.ggml.eot_token_id",
    "eom": "tokenizer.ggml.eom_token_id",
}
ADD_KEYS = {
    "bos": "tokenizer.ggml.add_bos_token",
    "eos": "tokenizer.ggml.add_eos_token",
    "sep": "tokenizer.ggml.add_sep_token",
}
_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


@dataclass(slots=True)
class _Findings:
    """What has been found so far: the text of each role's token, and which roles are added by themselves."""

    names: dict[str, str | None]
    has_config: bool
    roles: list[str] = field(default_factory=lambda: list(_ROLES))
    adds: dict[str, bool] = field(default_factory=dict)


def special_token_metadata(
    files: TokenizerFiles, config: Mapping[str, Any], *, vocabulary_size: int, adds: Mapping[str, bool] | None = None
) -> dict[str, MetadataValue]:
    """Find the special tokens' ids and the add_*_token flags; `adds` holds the flags that a family has by default.

    The order of trust is that of llama.cpp's converter (gguf-py/gguf/vocab.py, SpecialVocab): names in
    tokenizer_config.json, looked up among tokenizer.json's added tokens; then the ids in config.json. The flags come
    from tokenizer.json's post-processor, then from tokenizer_config.json. Ids beyond the vocabulary are left out.
    """
    findings = _read_tokenizer_config(files)
    if files.tokenizer is not None:
        _read_post_processor(files.tokenizer.get("post_processor"), findings)
    ids = _ids_by_name(findings, files.tokenizer_added_tokens(), vocabulary_size)
    for role in findings.roles:
        token_id = config.get(f"{role}_token_id")
        if role not in ids and is_token_id(token_id) and 0 <= token_id < vocabulary_size:
            ids[role] = token_id
    adds = {**(adds or {}), **_adds(findings, files.tokenizer_config or {})}

    metadata: dict[str, MetadataValue] = {ID_KEYS[role]: ids[role] for role in ids if role in ID_KEYS}
    metadata |= {ADD_KEYS[role]: adds[role] for role in adds if role in ADD_KEYS}
    if files.tokenizer is not None:
        metadata |= _normalizer_metadata(files.tokenizer.get("normalizer"))
    return metadata


def token_name(entry: object) -> str | None:
    """Read a special token's text, which is a string or an object with a `content`."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else None


def special_names(files: TokenizerFiles) -> set[str]:
    """Collect the texts of all tokens that tokenizer_config.json gives a role, the additional ones included."""
    content = files.tokenizer_config or {}
    entries: list[object] = [content.get(f"{role}_token") for role in _ROLES]
    for key in ("additional_special_tokens", "extra_special_tokens"):
        more = content.get(key)
        entries += more if isinstance(more, list) else more.values() if isinstance(more, dict) else []
    return {name for name in map(token_name, entries) if name}


def _read_tokenizer_config(files: TokenizerFiles) -> _Findings:
    content = files.tokenizer_config
    names = {role: token_name((content or {}).get(f"{role}_token")) for role in (*_ROLES, "eot", "eom")}
    if files.tokenizer is not None and content:
        # Models after BERT call their first and last token cls and sep.
        names["bos"] = names["bos"] or names["cls"]
        names["eos"] = names["eos"] or names["sep"]
    return _Findings(names, bool(content))


def _read_post_processor(post_processor: object, findings: _Findings) -> None:
    if not isinstance(post_processor, dict):
        return
    for processor in _objects(post_processor.get("processors", [post_processor])):
        match processor.get("type"):
            case "ByteLevel":
                findings.adds.setdefault("bos", False)
                findings.adds.setdefault("eos", False)
            case "RobertaProcessing":
                findings.adds |= {"bos": True, "eos": True, "sep": True}
                for role, twin in (("cls", "bos"), ("sep", "eos")):
                    pair = processor.get(role)
                    name = pair[0] if isinstance(pair, list) and pair else findings.names[twin]
                    findings.names[role] = findings.names[role] or token_name(name)
            case "TemplateProcessing":
                _read_template(processor, findings)


def _read_template(processor: Mapping[str, Any], findings: _Findings) -> None:
    """Read from a template such as `<s> $A </s>` which tokens it adds."""
    single = _objects(processor.get("single"))
    first = _special(single[0]) if len(single) > 1 else None
    last = _special(single[-1]) if len(single) > 1 else None
    names = findings.names
    if first:
        if not findings.has_config:
            names["bos"] = first
        elif first not in (names["bos"], names["cls"]):
            names["bos"] = names["bos"] or first
            names["cls"] = names["cls"] or first
        findings.adds["bos"] = first in (names["bos"], names["cls"])
    if last:
        if findings.has_config and last != names["eos"]:
            # The template ends with another token than the named one, which then ends a turn or a message.
            role = next((role for role in ("eot", "eom") if role not in findings.roles), None)
            if role:
                findings.roles.append(role)
                names[role] = names["eos"]
        names["eos"] = last
        findings.adds["eos"] = True
    _read_pair(_objects(processor.get("pair")), first, last, findings)


def _read_pair(pair: Sequence[Mapping[str, Any]], first: str | None, last: str | None, findings: _Findings) -> None:
    """Read from a template such as `<s> $A </s> <s> $B </s>` whether a separator stands between two texts."""
    start = 1 if pair and first and _special(pair[0]) == first else 0
    stop = -1 if pair and last and _special(pair[-1]) == last else None
    inner = pair[start:stop]
    if len(inner) < 3 or _sequence(inner[0]) != "A" or _sequence(inner[-1]) != "B":
        return
    between = inner[1:-1]
    separators = (findings.names["sep"], findings.names["eos"])
    adds = bool(_special(between[0])) and _special(between[0]) in separators and not last
    if len(between) == 2 and _special(between[1]) and _special(between[1]) in separators:
        adds = True
    findings.adds["sep"] = adds
    if adds and not findings.names["sep"]:
        findings.names["sep"] = findings.names["eos"]


def _ids_by_name(findings: _Findings, added: Sequence[AddedToken], vocabulary_size: int) -> dict[str, int]:
    if not findings.has_config:
        return {}
    by_text: dict[str, int] = {}
    for token in added:
        by_text.setdefault(token.text, token.id)
    names = {role: findings.names[role] for role in findings.roles}
    found = {role: by_text[name] for role, name in names.items() if name in by_text}
    return {role: token_id for role, token_id in found.items() if token_id < vocabulary_size}


def _adds(findings: _Findings, tokenizer_config: Mapping[str, Any]) -> dict[str, bool]:
    adds = dict(findings.adds)
    for role in findings.roles:
        flag = tokenizer_config.get(f"add_{role}_token")
        if isinstance(flag, bool):
            adds.setdefault(role, flag)  # where the two differ, the post-processor is what runs
    return adds


def _normalizer_metadata(normalizer: object) -> dict[str, MetadataValue]:
    """Read the flags that llama.cpp knows of BERT's normalizer."""
    if not isinstance(normalizer, dict):
        return {}
    match normalizer.get("type"):
        case "Lowercase":
            return {"tokenizer.ggml.normalizer.lowercase": True}
        case "StripAccents":
            return {"tokenizer.ggml.normalizer.strip_accents": True}
        case "BertNormalizer":
            flags = {name: normalizer.get(name) for name in ("lowercase", "strip_accents")}
            return {f"tokenizer.ggml.normalizer.{name}": flag for name, flag in flags.items() if isinstance(flag, bool)}
        case "Sequence":
            found: dict[str, MetadataValue] = {}
            for part in _objects(normalizer.get("normalizers")):
                found |= _normalizer_metadata(part)
            return found
    return {}


def _objects(entries: object) -> list[Mapping[str, Any]]:
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _special(piece: Mapping[str, Any]) -> str | None:
    inner = piece.get("SpecialToken")
    return token_name(inner.get("id")) if isinstance(inner, dict) else None


def _sequence(piece: Mapping[str, Any]) -> str | None:
    inner = piece.get("Sequence")
    return inner.get("id") if isinstance(inner, dict) else None
