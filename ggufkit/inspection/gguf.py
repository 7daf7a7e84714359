"""The facts of a GGUF model, from its headers: no tensor is read, and of the vocabulary only a few tokens."""

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ggufkit.gguf_file.parts import read_parts
from ggufkit.gguf_file.reader import GgufHeader, Metadata, ValueType
from ggufkit.inspection.facts import (
    ImatrixFacts,
    Inspection,
    SpecialToken,
    TemplateFacts,
    TensorFacts,
    VocabularyFacts,
    type_shares,
)
from ggufkit.quantization.types import TYPES

TEMPLATE = "tokenizer.chat_template"
_TOKENS = "tokenizer.ggml.tokens"
_ROLES = ("bos", "eos", "eot", "eom", "unknown", "seperator", "padding", "mask", "fim_pre", "fim_suf", "fim_mid")
_SIZES = (
    "block_count",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.sliding_window",
    "expert_count",
    "expert_used_count",
    "expert_feed_forward_length",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
)
_ORIGIN = (
    "general.author",
    "general.organization",
    "general.quantized_by",
    "general.source.url",
    "general.source.repo_url",
    "general.source.huggingface.repository",
    "ggufkit.version",
    "ggufkit.source.repository",
    "ggufkit.source.revision",
    "ggufkit.source.fingerprint",
)
_SHOWN_ELEMENTS = 8


def inspect_gguf(path: Path) -> Inspection:
    """Read the facts of a GGUF file; of a split model, of all its parts, found from the first one.

    Raises:
        GgufFileError: a file is missing or malformed, or `path` is not the first part.
    """
    headers = read_parts(path)
    metadata = headers[0].metadata
    architecture = str(metadata.get("general.architecture", "unknown"))
    tensors = [(header, tensor) for header in headers for tensor in header.tensors]
    template = metadata.get(TEMPLATE)
    vocabulary = _vocabulary(metadata)
    shares = type_shares((tensor.type.name, tensor.elements, tensor.size) for _, tensor in tensors)
    inspection = Inspection(
        path=path,
        kind="gguf",
        files={str(header.path): header.file_size for header in headers},
        architecture=architecture,
        name=_text(metadata, "general.name"),
        parameters=sum(tensor.elements for _, tensor in tensors),
        active_parameters=_active(headers, metadata, architecture),
        tensor_bytes=sum(tensor.size for _, tensor in tensors),
        types=shares,
        file_type=_file_type(metadata),
        context_length=_integer(metadata, f"{architecture}.context_length"),
        sizes={
            name: metadata[f"{architecture}.{name}"] for name in _SIZES if f"{architecture}.{name}" in metadata.entries
        },
        vocabulary=vocabulary,
        template=_template(metadata, template) if isinstance(template, str) and template else None,
        imatrix=_imatrix(metadata),
        license=_text(metadata, "general.license.name") or _text(metadata, "general.license"),
        origin=_origin(metadata),
        warnings=(),
        tensors=tuple(
            TensorFacts(tensor.name, tensor.type.name, tensor.shape, tensor.size, header.path.name)
            for header, tensor in tensors
        ),
        metadata=_Shown(metadata),
    )
    return _with_warnings(inspection, headers)


def is_generative(inspection: Inspection) -> bool:
    """Whether the model writes text, so that a chat template could be expected; encoders and adapters do not."""
    encoder = any(key.endswith((".pooling_type", ".attention.causal")) for key in inspection.metadata)
    return inspection.metadata.get("general.type", "model") == "model" and not encoder


class _Shown(Mapping[str, Any]):
    """Metadata as they are shown: of a long array only its kind and length, so that none is read by mistake."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    def __getitem__(self, key: str) -> Any:
        entry = self._metadata.entries[key]
        if entry.element_kind is None or entry.count <= _SHOWN_ELEMENTS:
            return self._metadata[key]
        return {"array_of": entry.element_kind.name, "length": entry.count}

    def __iter__(self) -> Any:
        return iter(self._metadata)

    def __len__(self) -> int:
        return len(self._metadata)


def _vocabulary(metadata: Metadata) -> VocabularyFacts | None:
    if "tokenizer.ggml.model" not in metadata.entries and _TOKENS not in metadata.entries:
        return None
    ids = {role: _integer(metadata, f"tokenizer.ggml.{role}_token_id") for role in _ROLES}
    known = {role: number for role, number in ids.items() if number is not None}
    texts = metadata.pick(_TOKENS, known.values()) if _TOKENS in metadata.entries else {}
    return VocabularyFacts(
        _text(metadata, "tokenizer.ggml.model"),
        _text(metadata, "tokenizer.ggml.pre"),
        _count(metadata, _TOKENS),
        _count(metadata, "tokenizer.ggml.merges"),
        tuple(SpecialToken(role, number, texts.get(number)) for role, number in known.items()),
        _boolean(metadata, "tokenizer.ggml.add_bos_token"),
        _boolean(metadata, "tokenizer.ggml.add_eos_token"),
    )


def _template(metadata: Metadata, template: str) -> TemplateFacts:
    others = tuple(key.removeprefix(f"{TEMPLATE}.") for key in metadata if key.startswith(f"{TEMPLATE}."))
    return TemplateFacts(len(template), hashlib.sha256(template.encode()).hexdigest(), others)


def _imatrix(metadata: Metadata) -> ImatrixFacts | None:
    if not any(key.startswith("quantize.imatrix.") for key in metadata.entries):
        return None
    return ImatrixFacts(
        _text(metadata, "quantize.imatrix.file"),
        _text(metadata, "quantize.imatrix.dataset"),
        _integer(metadata, "quantize.imatrix.entries_count"),
        _integer(metadata, "quantize.imatrix.chunks_count"),
    )


def _origin(metadata: Metadata) -> dict[str, Any]:
    found = {key: text for key in _ORIGIN if (text := _text(metadata, key))}
    for index in range(min(_integer(metadata, "general.base_model.count") or 0, 16)):
        for part in ("name", "organization", "repo_url", "version"):
            key = f"general.base_model.{index}.{part}"
            if text := _text(metadata, key):
                found[key] = text
    return found


def _file_type(metadata: Metadata) -> str | None:
    number = _integer(metadata, "general.file_type")
    if number is None:
        return None
    return next((kind.name for kind in TYPES if kind.number == number % 1024), f"unknown ({number})")


def _active(headers: Sequence[GgufHeader], metadata: Metadata, architecture: str) -> int | None:
    """Count what a token passes through: of tensors that stack experts, the share of those in use."""
    count = _integer(metadata, f"{architecture}.expert_count")
    used = _integer(metadata, f"{architecture}.expert_used_count")
    if not count or not used:
        return None
    total = 0
    for header in headers:
        for tensor in header.tensors:
            stacked = "_exps." in tensor.name and tensor.shape[-1] == count
            total += tensor.elements * used // count if stacked else tensor.elements
    return total


def _with_warnings(inspection: Inspection, headers: Sequence[GgufHeader]) -> Inspection:
    return dataclasses.replace(inspection, warnings=tuple(_warnings(inspection, headers)))


def _warnings(inspection: Inspection, headers: Sequence[GgufHeader]) -> list[str]:
    found = []
    metadata = headers[0].metadata
    announced = metadata.get("split.tensors.count")
    tensors = len(inspection.tensors)
    if isinstance(announced, int) and announced != tensors and len(headers) > 1:
        found.append(f"the parts hold {tensors} tensors, the first announces {announced}")
    named = next((kind for kind in TYPES if kind.name == inspection.file_type), None)
    if named and inspection.types:
        most = inspection.types[0].type
        plain = {"F32", "F16", "BF16"}
        if (most in plain) != (named.base.name in plain):
            found.append(f"general.file_type says {named.name}, but most of the weights are {most}")
    vocabulary = inspection.vocabulary
    if vocabulary:
        found += [
            f"the {token.role} token is {token.id}, outside of the {vocabulary.tokens:,} tokens"
            for token in vocabulary.special
            if token.id >= vocabulary.tokens > 0
        ]
        rows = next((t.shape[-1] for t in inspection.tensors if t.name == "token_embd.weight" and t.shape), None)
        if rows is not None and vocabulary.tokens and rows != vocabulary.tokens:
            found.append(f"{vocabulary.tokens:,} tokens, but {rows:,} embeddings")
        if inspection.template is None and is_generative(inspection):
            found.append("no chat template: programs will have to guess how conversations are written")
    return found


def _text(metadata: Metadata, key: str) -> str | None:
    value = metadata[key] if key in metadata.entries and metadata.entries[key].kind is ValueType.STRING else None
    return str(value) if value else None


def _integer(metadata: Metadata, key: str) -> int | None:
    entry = metadata.entries.get(key)
    if entry is None or entry.kind in {ValueType.ARRAY, ValueType.STRING, ValueType.BOOL}:
        return None
    value = metadata[key]
    if isinstance(value, float) and not (math.isfinite(value) and value.is_integer()):
        return None
    return int(value) if isinstance(value, int | float) else None


def _boolean(metadata: Metadata, key: str) -> bool | None:
    value = metadata.get(key)
    return value if isinstance(value, bool) else None


def _count(metadata: Metadata, key: str) -> int:
    entry = metadata.entries.get(key)
    return entry.count if entry is not None and entry.kind is ValueType.ARRAY else 0
