"""Metadata that a person gives: `--metadata FILE` (llama.cpp's JSON) and `--set KEY=VALUE`, each value with its type.

A key that the file would hold anyway keeps its type; other keys of GGUF's specification (docs/gguf.md of ggml-org/ggml)
have theirs in a table; for the rest the type is named: `KEY=TYPE:VALUE`.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguf import GGUFValueType

from ggufkit.checkpoints.config import read_json_object
from ggufkit.errors import UsageError
from ggufkit.gguf_file.writer import Value

_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
_AN_EXAMPLE = 'such as {"general.author": "Ada", "general.tags": ["poetry"]}'
_TYPED = re.compile(r"(?P<type>[a-z]+\d*)(?P<array>\[\])?:(?P<value>.*)", re.DOTALL)

_TYPES: Mapping[str, GGUFValueType] = {
    **{f"u{bits}": GGUFValueType[f"UINT{bits}"] for bits in (8, 16, 32, 64)},
    **{f"i{bits}": GGUFValueType[f"INT{bits}"] for bits in (8, 16, 32, 64)},
    "f32": GGUFValueType.FLOAT32,
    "f64": GGUFValueType.FLOAT64,
    "bool": GGUFValueType.BOOL,
    "str": GGUFValueType.STRING,
}
_NAMES = {kind: name for name, kind in _TYPES.items()}
_FLOATS = {GGUFValueType.FLOAT32, GGUFValueType.FLOAT64}

_TEXTS = "name author version organization finetune basename description quantized_by size_label license license.name"
_TEXTS += " license.link url doi uuid repo_url source.url source.doi source.uuid source.repo_url"
_SOURCE_TEXTS = ("name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url")
_SAMPLING = {
    "sequence": "str",
    **dict.fromkeys(("top_k", "penalty_last_n", "mirostat"), "i32"),
    **dict.fromkeys(("top_p", "min_p", "xtc_probability", "xtc_threshold", "temp", "penalty_repeat"), "f32"),
    **dict.fromkeys(("mirostat_tau", "mirostat_eta"), "f32"),
}
_ROLES = "bos eos eot eom unknown seperator padding cls mask prefix suffix middle"  # the misspelling is GGUF's
_ROLES += " fim_pre fim_suf fim_mid fim_pad fim_rep fim_sep"
# Key -> type, `[]` behind it for an array.
_KNOWN: Mapping[str, str] = {
    **{f"general.{name}": "str" for name in _TEXTS.split()},
    "general.tags": "str[]",
    "general.languages": "str[]",
    "general.base_model.count": "u32",
    "general.dataset.count": "u32",
    **{f"general.sampling.{name}": kind for name, kind in _SAMPLING.items()},
    **{f"tokenizer.ggml.{role}_token_id": "u32" for role in _ROLES.split()},
    **{f"tokenizer.ggml.add_{name}": "bool" for name in ("bos_token", "eos_token", "sep_token", "space_prefix")},
    "tokenizer.ggml.remove_extra_whitespaces": "bool",
    "tokenizer.ggml.pre": "str",
    "tokenizer.chat_template": "str",
}
# The same of keys that begin with the architecture's name.
_KNOWN_OF_MODEL: Mapping[str, str] = {
    **dict.fromkeys(("context_length", "rope.dimension_count", "rope.scaling.original_context_length"), "u32"),
    **dict.fromkeys(("attention.sliding_window", "expert_used_count"), "u32"),
    **dict.fromkeys(("rope.freq_base", "rope.scaling.factor", "rope.scaling.attn_factor"), "f32"),
    **dict.fromkeys(("logit_scale", "attn_logit_softcapping", "final_logit_softcapping"), "f32"),
    **dict.fromkeys(("rope.scaling.finetuned", "attention.causal"), "bool"),
    "rope.scaling.type": "str",
}
# Others would make the file another one than its tensors say.
_FIXED = re.compile(
    r"general\.(architecture|alignment|type|file_type|quantization_version)|split\..*|ggufkit\..*"
    r"|tokenizer\.ggml\.(model|tokens|scores|token_type|merges)|.*\.(block_count|embedding_length)"
)
_NUMBERED = re.compile(r"general\.(?:base_model|dataset)\.\d+\.(\w+)")


@dataclass(frozen=True, slots=True)
class MetadataEdits:
    """What is to be set: values of a JSON file, and texts of the command line, which come later and count."""

    values: Mapping[str, Any] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)

    def applied_to(self, metadata: Mapping[str, Any], architecture: str) -> dict[str, Any]:
        """Put the edits over what a file would hold.

        Raises:
            UsageError: a key's type is not known, a value is not of it, or the key cannot be changed.
        """
        edited = dict(metadata)
        for key, value in self.values.items():
            edited[key] = _from_json(key, value, _type_of(key, metadata, architecture))
        for key, text in self.texts.items():
            edited[key] = _from_text(key, text, _type_of(key, metadata, architecture))
        return edited


def read_edits(file: Path | None, settings: Sequence[str]) -> MetadataEdits:
    """Read a JSON file of llama.cpp's form (`--metadata`), and settings of the form `KEY=VALUE` (`--set`).

    Raises:
        UsageError: a setting has no `=`, or a key that is no key.
        CheckpointError: the file is missing or no JSON object.
    """
    texts: dict[str, str] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting!r} is not of the form KEY=VALUE", hint="such as --set general.author=Ada")
        texts[key] = text
    values: dict[str, Any] = {}
    for key, value in (read_json_object(file, hint=_AN_EXAMPLE) if file else {}).items():
        if key in ("general.base_models", "general.datasets"):
            values |= _numbered(key, value)
        else:
            values[key] = value
    for key in (*values, *texts):
        if not _KEY.fullmatch(key):
            raise UsageError(f"{key!r} is no metadata key", hint="keys look like general.name")
        check_changeable(key)
    return MetadataEdits(values, texts)


def check_changeable(key: str) -> None:
    """Refuse a key that must say what the tensors and the vocabulary are. Raises UsageError."""
    if _FIXED.fullmatch(key):
        raise UsageError(f"{key} follows from the model, and cannot be set")


def _numbered(key: str, entries: Any) -> dict[str, Any]:
    """Spell a list of base models or data sets as GGUF does: a count, and keys with a number."""
    singular = key.removesuffix("s")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f"{key} must be a list of objects")
    fields = {f"{singular}.{n}.{name}": value for n, entry in enumerate(entries) for name, value in entry.items()}
    return {f"{singular}.count": len(entries), **fields}


def _type_of(key: str, metadata: Mapping[str, Any], architecture: str) -> str | None:
    if key in metadata:
        return _type_of_value(metadata[key])
    if key in _KNOWN:
        return _KNOWN[key]
    if (found := _NUMBERED.fullmatch(key)) and found[1] in _SOURCE_TEXTS:
        return "str"
    return _KNOWN_OF_MODEL.get(key.removeprefix(f"{architecture}."))


def _type_of_value(value: Any) -> str | None:
    match value:
        case Value(type=GGUFValueType.ARRAY):
            inner = _NAMES[value.element] if value.element else _type_of_value(list(value.value))
            return inner if inner is None or inner.endswith("[]") else f"{inner}[]"
        case Value():
            return _NAMES[value.type]
        case bool():
            return "bool"
        case int():
            return "u32" if value >= 0 else "i32"
        case float():
            return "f32"
        case str():
            return "str"
        case list() | tuple() if value:
            inner = "i32" if isinstance(value[0], int) and not isinstance(value[0], bool) else _type_of_value(value[0])
            return f"{inner}[]"
        case _:
            return None


def _from_text(key: str, text: str, kind: str | None) -> Value:
    typed = _TYPED.fullmatch(text)
    if kind is None:
        if not typed or typed["type"] not in _TYPES:
            raise UsageError(
                f"--set {key}: no key of this name is known, so its type must be said",
                hint=f"such as --set {key}=str:{text or 'text'}; types are {', '.join(_TYPES)}, with [] for a list",
            )
        kind, text = typed["type"] + (typed["array"] or ""), typed["value"]
    elif typed and typed["type"] + (typed["array"] or "") == kind:
        text = typed["value"]
    if kind.endswith("[]"):
        return _from_json(key, _list(key, text, kind), kind)
    if kind == "str":
        return _from_json(key, text, kind)
    try:
        return _from_json(key, json.loads(text.strip().lower()), kind)
    except (ValueError, RecursionError):
        raise UsageError(f"{key} must be of type {kind}, not {text!r}") from None


def _list(key: str, text: str, kind: str) -> Any:
    """Read a list: JSON in brackets, else values with commas between."""
    if not text.strip().startswith("["):
        parts = [part.strip() for part in text.split(",") if part.strip()]
        return parts if kind == "str[]" else [_scalar(part) for part in parts]
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{key}: {text!r} is no JSON list: {error}") from None


def _scalar(text: str) -> Any:
    """Read a number, true or false; whatever else it is stays a text, which no such type takes."""
    try:
        return json.loads(text.lower())
    except (ValueError, RecursionError):
        return text


def _from_json(key: str, value: Any, kind: str | None) -> Value:
    if kind is None:
        raise UsageError(f"no key {key!r} is known, so its type must be said", hint=f"--set {key}=TYPE:VALUE")
    if not kind.endswith("[]"):
        return Value(_checked(key, value, _TYPES[kind]), _TYPES[kind])
    if not isinstance(value, list) or not value:
        raise UsageError(f"{key} must be a list with something in it, not {value!r}")
    element = _TYPES[kind.removesuffix("[]")]
    return Value([_checked(key, each, element) for each in value], GGUFValueType.ARRAY, element)


def _checked(key: str, value: Any, kind: GGUFValueType) -> Any:
    """Return a value that fits a type. Raises UsageError."""
    name = _NAMES[kind]
    if kind is GGUFValueType.STRING and isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{key}: the text is not valid Unicode") from None
        return value
    if kind is GGUFValueType.BOOL and isinstance(value, bool):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        if kind in _FLOATS and math.isfinite(value) and abs(value) < 3.4e38:
            return float(value)
        if name[0] in "ui" and math.isfinite(value) and value == int(value):
            bits = int(name[1:])
            least, most = (0, 2**bits - 1) if name[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            if least <= value <= most:
                return int(value)
    raise UsageError(f"{key} must be of type {name}, not {value!r}")
