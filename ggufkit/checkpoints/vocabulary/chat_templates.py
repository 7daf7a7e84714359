"""The checkpoint's chat templates, as metadata."""

import re
from pathlib import Path
from typing import Any

from ggufkit.checkpoints.vocabulary.files import (
    MetadataValue,
    TokenizerFiles,
    checked_text,
    read_json_object,
    read_text,
)
from ggufkit.errors import CheckpointError

_KEY = "tokenizer.chat_template"
_NAMES_KEY = "tokenizer.chat_templates"
_NOT_ALLOWED_IN_NAME = re.compile(r"[^A-Za-z0-9]")


def chat_template_metadata(files: TokenizerFiles) -> dict[str, MetadataValue]:
    """Find the chat template: chat_template.jinja, else in tokenizer_config.json, else chat_template.json.

    That is the order of transformers, which writes the first and reads the others for older checkpoints. Several named
    templates become one key each, and the one named `default` is the model's.

    Raises:
        CheckpointError: a template is neither text nor a list of named texts.
    """
    source, template = _find(files)
    if template is None:
        return {}
    if isinstance(template, str):
        return {_KEY: checked_text(source, "chat_template", template)}
    if isinstance(template, list):
        return _named_templates(source, template)
    raise CheckpointError(f"{source}: `chat_template` must be a text or a list of named texts, found {template!r:.60}")


def _find(files: TokenizerFiles) -> tuple[Path, Any]:
    jinja = files.folder / "chat_template.jinja"
    named = [
        {"name": path.stem, "template": read_text(path)}
        for path in sorted((files.folder / "additional_chat_templates").glob("*.jinja"))
    ]
    if jinja.is_file():
        template = read_text(jinja)
        return jinja, [{"name": "default", "template": template}, *named] if named else template
    if named:
        return files.folder / "additional_chat_templates", named
    in_config = (files.tokenizer_config or {}).get("chat_template")
    if in_config is not None:
        return files.folder / "tokenizer_config.json", in_config
    path = files.folder / "chat_template.json"
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
