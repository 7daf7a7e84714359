"""A model, and what goes with it, into Ollama's store: what is written is known before anything is.

The layers, in their order: the files (model and projector by the names of their files, then the adapter), template,
system, licenses, params, messages (server/create.go: convertModelFromFiles, createModel).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ggufkit.errors import GgufFileError, InputError, UsageError
from ggufkit.exports import placing
from ggufkit.exports.merging import Merged, merge
from ggufkit.exports.ollama import messages as turns
from ggufkit.exports.ollama import parameters as settings
from ggufkit.exports.ollama.description import Config, Kind, architecture_of, config_of, kind_of
from ggufkit.exports.ollama.manifests import CONFIG_TYPE, LAYER_TYPE, Layer, layer_of, manifest_bytes
from ggufkit.exports.ollama.names import ModelName, parse_name
from ggufkit.exports.ollama.store import Store, default_store
from ggufkit.exports.ollama.writing import writing
from ggufkit.fitness import read_fit_parts, refuse_unfit
from ggufkit.gguf_file.reader import GgufHeader, read_header
from ggufkit.progress import Progress, silent

_MUCH_MEMORY = 4 * 10**9  # bytes, of keys and values
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What a model is exported with. `parameters` take the place of what the model says of itself."""

    system: str = ""
    parameters: Mapping[str, settings.Parameter] = field(default_factory=dict)
    licenses: tuple[str, ...] = ()
    messages: tuple[turns.Message, ...] = ()
    template: str = ""  # a Go template; empty: none is written, and Ollama uses the model's own
    adapter: Path | None = None
    projector: Path | None = None
    generation_config: Path | None = None  # None: the file of that name beside the model, when there is one


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that an export writes, but for the bytes of the files, which are not read yet."""

    files: tuple[tuple[Kind, Path], ...]
    config: Config
    parameters: Mapping[str, settings.Parameter]
    texts: tuple[tuple[str, bytes], ...]  # last word of the media type, content
    architecture: str
    has_template: bool
    warnings: tuple[str, ...]
    merged: Merged | None = None  # a model in parts, which becomes one file


@dataclass(frozen=True, slots=True)
class Exported:
    """A model in the store, or one that would be there: `how` tells for each file how it came there."""

    name: ModelName
    store: Path
    manifest: bytes
    config: Layer
    layers: tuple[Layer, ...]
    how: Mapping[str, str]  # by digest


def export_ollama(
    model: Path, name: str, *, store: Path | None = None, options: ExportOptions | None = None
) -> "Exported":
    """Write a model into Ollama's store: the user's own, or another.

    Raises:
        As `plan_export` and `export`; UsageError when the name is none that Ollama takes.
    """
    plan = plan_export(model, options or ExportOptions())
    return export(plan, parse_name(name), Store(store or default_store()))


def plan_export(model: Path, options: ExportOptions) -> Plan:
    """Read what is to be exported and decide on every layer. Reads headers only.

    Raises:
        GgufFileError: a file is missing, malformed, of the wrong kind, or no first part of a split model.
        InputError: generation_config.json cannot be read.
        UsageError: model, adapter and projector do not go together.
    """
    header = _header(model, Kind.MODEL)
    merged = merge(read_fit_parts(model)) if _is_split(header) else None
    architecture = architecture_of(header)
    files = [(Kind.MODEL, model)]
    warnings = []
    if options.projector:
        _header(options.projector, Kind.PROJECTOR)
        files.append((Kind.PROJECTOR, options.projector))
    files.sort(key=lambda item: os.fsencode(item[1].name))
    if options.adapter:
        adapted = architecture_of(_header(options.adapter, Kind.ADAPTER))
        if adapted != architecture:
            raise UsageError(
                f"{options.adapter} is an adapter for architecture {adapted}, and {model} is of {architecture}"
            )
        files.append((Kind.ADAPTER, options.adapter))
        warnings.append("newer versions of Ollama refuse adapters; `ggufkit merge-lora` makes one model of both")
    path = options.generation_config or model.parent / "generation_config.json"
    generation_config = settings.read_generation_config(path)
    if generation_config is None and options.generation_config:
        raise InputError(f"there is no file {path}")
    parameters = {**settings.parameters_of_model(header, generation_config), **options.parameters}
    if "num_ctx" not in options.parameters:
        warnings += _memory_warning(header, parameters.get("num_ctx"))
    has_template = bool(header.metadata.get("tokenizer.chat_template"))
    if not has_template and not options.template:
        warnings.append("the model has no chat template: Ollama will pass prompts to it as they are")
    texts = [
        *([("template", options.template.encode())] if options.template else []),
        *([("system", options.system.encode())] if options.system else []),
        *(("license", text.encode()) for text in options.licenses),
        *([("params", settings.encode(parameters))] if parameters else []),
        *([("messages", turns.encode(options.messages))] if options.messages else []),
    ]
    return Plan(
        tuple(files),
        config_of(header, elements=sum(part.elements for part in merged.parts) if merged else None),
        parameters,
        tuple(texts),
        architecture,
        has_template,
        tuple(warnings),
        merged,
    )


def export(
    plan: Plan,
    name: ModelName,
    store: Store,
    *,
    copy: bool = False,
    keep_old: bool = False,
    dry_run: bool = False,
    progress: Progress = silent,
) -> Exported:
    """Write a model into a store: blobs first, the manifest last, by a rename.

    A model that had the name is replaced; blobs that only it used are removed, unless `keep_old`. `dry_run` reads the
    files for their hashes and writes nothing.

    Raises:
        InputError: a file cannot be read or changes meanwhile.
        OutputError: the store cannot be written, or is full.
    """
    name = store.existing(name)
    config = layer_of(CONFIG_TYPE, plan.config.encode())
    small = [layer_of(f"{LAYER_TYPE}{kind}", content) for kind, content in plan.texts]
    how: dict[str, str] = {}
    if dry_run:
        large = []
        for kind, path in plan.files:
            merged = plan.merged if kind is Kind.MODEL else None
            digest = merged.sha256(progress) if merged else placing.sha256_of(path, progress)
            size = merged.size if merged else path.stat().st_size
            large.append(Layer(f"{LAYER_TYPE}{kind.value}", f"sha256:{digest}", size))
        return Exported(name, store.path, manifest_bytes(config, [*large, *small]), config, (*large, *small), how)
    with writing(store) as writer:
        old = store.digests_of(name)
        large = []
        for kind, path in plan.files:
            media_type = f"{LAYER_TYPE}{kind.value}"
            if plan.merged and kind is Kind.MODEL:
                layer, way = writer.put_merged(media_type, plan.merged, progress), "merged"
            else:
                layer, way = writer.put_file(media_type, path, copy=copy, progress=progress)
            large.append(layer)
            how[layer.digest] = way
        for layer, (_, content) in zip(small, plan.texts, strict=True):
            writer.put(layer.media_type, content)
        writer.put(CONFIG_TYPE, plan.config.encode())
        layers = (*large, *small)
        kept = {layer.digest for layer in (config, *layers)}
        with writer.dropping([] if keep_old else [digest for digest in old if digest not in kept]):
            content = writer.write_manifest(name, config, layers)
    return Exported(name, store.path, content, config, layers, how)


def _memory_warning(header: GgufHeader, context: settings.Parameter | None) -> list[str]:
    """Say what the model's whole context takes, when that is much."""
    from ggufkit.inference.model_file import cache_bytes
    from ggufkit.inference.options import CacheType

    if not isinstance(context, int):
        return []
    size = cache_bytes(header, context, CacheType.F16, CacheType.F16)
    text = (
        f"num_ctx is the model's whole context of {context:,} tokens, which take up to {size / 1e9:.0f} GB of memory "
        "beside the weights; --parameter num_ctx 8192 takes less"
    )
    return [text] if size >= _MUCH_MEMORY else []


def _header(path: Path, wanted: Kind) -> GgufHeader:
    """Read a header, and see that the file is what it is given for."""
    try:
        return _checked_header(path, wanted)
    except OSError as error:
        raise GgufFileError(f"cannot read {path}: {error.strerror}") from error


def _checked_header(path: Path, wanted: Kind) -> GgufHeader:
    if path.is_dir():
        raise _folder(path, wanted)
    if not path.exists():
        raise GgufFileError(f"there is no file {path}")
    try:
        header = read_header(path)
    except GgufFileError as error:
        if _begins_as_pointer(path):
            raise GgufFileError(f"{path} is a Git LFS pointer, not the file itself", hint="git lfs pull") from error
        raise
    if not _is_split(header):
        refuse_unfit([header])
    found = Kind.MODEL if _is_split(header) else kind_of(header)
    if found is not wanted:
        option = {Kind.MODEL: "as MODEL", Kind.ADAPTER: "with --adapter", Kind.PROJECTOR: "with --mmproj"}
        raise GgufFileError(
            f"{path} is a {found.value}, where a {wanted.value} is needed", hint=f"give it {option[found]}"
        )
    return header


def _begins_as_pointer(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_LFS_POINTER)) == _LFS_POINTER


def _is_split(header: GgufHeader) -> bool:
    count: Any = header.metadata.get("split.count", 0)
    return isinstance(count, int) and count > 1


def _folder(path: Path, wanted: Kind) -> GgufFileError:
    if (path / "adapter_config.json").exists():
        return GgufFileError(
            f"{path} is a PEFT adapter, not a GGUF file", hint=f"ggufkit convert-lora {path} --base DIR"
        )
    if (path / "config.json").exists():
        return GgufFileError(f"{path} is a checkpoint folder, not a GGUF file", hint=f"ggufkit quantize Q4_K_M {path}")
    return GgufFileError(f"{path} is a folder, not a GGUF file with a {wanted.value}")
