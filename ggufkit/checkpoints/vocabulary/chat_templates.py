"""The checkpoint's chat templates and its sampling defaults, as metadata."""

import re
from pathlib import Path
from typing import Any

from ggufkit.checkpoints.vocabulary.files import (
    MetadataValue,
    TokenizerFiles,
    Typed,
    checked_text,
    read_json_object,
    read_text,
)
from ggufkit.errors import CheckpointError

_KEY = "tokenizer.chat_template"
_NAMES_KEY = "tokenizer.chat_templates"
_NOT_ALLOWED_IN_NAME = re.compile(r"[^A-Za-z0-9]")

# generation_config.json -> GGUF key and the type that llama.cpp reads it as.
_SAMPLING: tuple[tuple[tuple[str, ...], str, type], ...] = (
    (("sequence",), "general.sampling.sequence", str),
    (("top_k",), "general.sampling.top_k", int),
    (("top_p",), "general.sampling.top_p", float),
    (("min_p",), "general.sampling.min_p", float),
    (("xtc_probability",), "general.sampling.xtc_probability", float),
    (("xtc_threshold",), "general.sampling.xtc_threshold", float),
    (("temperature",), "general.sampling.temp", float),
    (("penalty_last_n",), "general.sampling.penalty_last_n", int),
    (("penalty_repeat", "repetition_penalty"), "general.sampling.penalty_repeat", float),
    (("mirostat",), "general.sampling.mirostat", int),
    (("mirostat_tau",), "general.sampling.mirostat_tau", float),
    (("mirostat_eta",), "general.sampling.mirostat_eta", float),
)


# Of the GGUF types INT32 and FLOAT32; not a number compares as larger.
_LARGEST = {int: 2**31 - 1, float: 3.4e38, str: -1}


def chat_template_metadata(files: TokenizerFiles) -> dict[str, MetadataValue]:
    """Find the chat template: in tokenizer_config.json, else chat_template.jinja, else chat_template.json.

    Several named templates become one key each, and the one named `default` is the model's.

    Raises:
        CheckpointError: a template is neither text nor a list of named texts.
    """
    tokenizer_config = files.tokenizer_config or {}
    if "chat_template" in tokenizer_config:
        source, template = files.folder / "tokenizer_config.json", tokenizer_config["chat_template"]
    else:
        source, template = _template_beside(files.folder)
    if template is None:
        return {}
    if isinstance(template, str):
        return {_KEY: checked_text(source, "chat_template", template)}
    if isinstance(template, list):
        return _named_templates(source, template)
    raise CheckpointError(f"{source}: `chat_template` must be a text or a list of named texts, found {template!r:.60}")


def generation_defaults(folder: Path) -> dict[str, MetadataValue]:
    """Read the sampling settings that the model's makers recommend, as `general.sampling.*` metadata.

    Raises:
        CheckpointError: generation_config.json is malformed, or a setting is not a number.
    """
    path = folder / "generation_config.json"
    content = read_json_object(path) or {}
    metadata: dict[str, MetadataValue] = {}
    for names, key, kind in _SAMPLING:
        name = next((name for name in names if name in content), None)
        value = content[name] if name else None
        if value is not None:
            metadata[key] = _setting(path, str(name), value, kind)
    return metadata


def _setting(path: Path, name: str, value: object, kind: type) -> MetadataValue:
    if kind is str and isinstance(value, str):
        return checked_text(path, name, value)
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST[kind]:
        return float(value) if kind is float else Typed(int(value), "INT32")
    raise CheckpointError(f"{path}: {name!r} is {value!r}, expected a {'text' if kind is str else 'number'}")


def _template_beside(folder: Path) -> tuple[Path, Any]:
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        template = read_text(jinja)
        more = sorted((folder / "additional_chat_templates").glob("*.jinja"))
        if not more:
            return jinja, template
        named = [{"name": path.stem, "template": read_text(path)} for path in more]
        return jinja, [{"name": "default", "template": template}, *named]
    path = folder / "chat_template.json"
    return path, (read_json_object(path) or {}).get("chat_template")


def _named_templates(source: Path, choices: list[Any]) -> dict[str, MetadataValue]:
    metadata: dict[str, MetadataValue] = {}
    names: set[str] = set()
    for choice in choices:
        name = choice.get("name") if isinstance(choice, dict) else None
        template = choice.get("template") if isinstance(choice, dict) else None
        if not isinstance(name, str) or not isinstance(template, str):
            raise CheckpointError(f"{source}: a chat template needs a name and a text, found {choice!r:.60}")
        template = checked_text(source, "chat_template", template)
        name = _NOT_ALLOWED_IN_NAME.sub("_", name)
        if name == "default":
            metadata[_KEY] = template
        elif name:
            names.add(name)
            metadata[f"{_KEY}.{name}"] = template
    if names:
        metadata[_NAMES_KEY] = sorted(names)
    return metadata
