"""A model card for quantized models: what they were made of and how, how much they lost, how to run them.

Everything in it is read off the files; what is not known is not said. Text from files is escaped: it is a stranger's.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufkit.conversion.description import own_version
from ggufkit.counting import counted
from ggufkit.gguf_file.parts import read_parts
from ggufkit.inspection.facts import Inspection
from ggufkit.inspection.gguf import inspect_gguf, is_generative
from ggufkit.llamacpp.pin import pin
from ggufkit.planning.quality import Quality, fingerprint, measured

MARK = "<!-- ggufkit model card -->"
_REPOSITORY = re.compile(r"(?:https://huggingface\.co/)?([\w.-]+/[\w.-]+)/?")
_USUAL = ("Q4_K_M", "Q5_K_M", "Q4_K_S", "Q8_0")
_OTHER_KINDS = {"mmproj": "multimodal projector", "adapter": "adapter", "imatrix": "importance matrix"}


@dataclass(frozen=True, slots=True)
class CardFile:
    """A model as the card tells of it: its files with their SHA-256, what it is, and what was measured on it."""

    inspection: Inspection
    hashes: dict[str, str]  # by file name
    quality: Quality | None

    @property
    def name(self) -> str:
        """The name of its (first) file."""
        return self.inspection.path.name

    @property
    def kind(self) -> str:
        """`model`, or what else a GGUF file may be."""
        return str(self.inspection.metadata.get("general.type", "model"))

    @property
    def type(self) -> str:
        """The quantization."""
        return self.inspection.file_type or (self.inspection.types[0].type if self.inspection.types else "")


def describe(path: Path, hashes: dict[str, str]) -> CardFile:
    """Read what a card tells of a model, and find what was measured on it beside it.

    Raises:
        GgufFileError: it is no GGUF file, or malformed.
    """
    inspection = inspect_gguf(path)
    kind, with_matrix = inspection.file_type or "", inspection.imatrix is not None
    parts = read_parts(path)
    weights = {(kind, with_matrix): sum(tensor.size for part in parts for tensor in part.tensors)}
    results = measured(fingerprint(parts), [path.absolute().parent], weights)
    return CardFile(inspection, hashes, results.get((kind, with_matrix)))


def base_model(files: Sequence[CardFile]) -> str | None:
    """Find the repository that the models were made of: `owner/repo`, None where no file tells."""
    for key in (
        "ggufkit.source.repository",
        "general.source.huggingface.repository",
        "general.source.repo_url",
        "general.base_model.0.repo_url",
    ):
        for file in files:
            if found := _REPOSITORY.fullmatch(str(file.inspection.origin.get(key, ""))):
                return found[1]
    return None


def model_card(files: Sequence[CardFile], repository: str, *, base: str | None) -> str:
    """Write the card, as README.md of a repository."""
    models = [file for file in files if file.kind == "model"]
    first = (models or list(files))[0].inspection
    name = first.name or repository.rpartition("/")[2]
    parts = [
        _front_matter(first, base),
        MARK,
        f"# {_text(name)} as GGUF",
        _introduction(first, base),
        _table(models),
        _others([file for file in files if file.kind != "model"]),
        _running(models, repository),
        _provenance(files),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(first: Inspection, base: str | None) -> str:
    """The part that the hub reads. JSON is YAML, so every value is quoted as JSON."""
    metadata = first.metadata
    values: dict[str, Any] = {"library_name": "gguf"}
    if base:
        values |= {"base_model": base, "base_model_relation": "quantized"}
    if license_ := metadata.get("general.license"):
        values["license"] = license_
    for key, name in (("general.license.name", "license_name"), ("general.license.link", "license_link")):
        if metadata.get(key):
            values[name] = metadata[key]
    if languages := metadata.get("general.languages"):
        values["language"] = languages
    if first.template and is_generative(first):
        values["pipeline_tag"] = "text-generation"
    tags = metadata.get("general.tags")
    own = [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
    values["tags"] = list(dict.fromkeys(["gguf", "ggufkit", *own]))
    lines = [f"{key}: {_yaml(value)}" for key, value in values.items()]
    return "\n".join(["---", *lines, "---"])


def _yaml(value: object) -> str:
    """Quote a value as JSON, with what YAML forbids or takes for a line break written as YAML escapes it."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(each if each.isprintable() else f"\\U{ord(each):08x}" for each in text)


def _introduction(first: Inspection, base: str | None) -> str:
    source = f"[{base}](https://huggingface.co/{base})" if base else "a checkpoint that the files do not name"
    context = f", trained for a context of {first.context_length:,} tokens" if first.context_length else ""
    parameters = f"{first.parameters / 1e9:.2f} billion" if first.parameters >= 1e9 else f"{first.parameters:,}"
    return f"Made from {source}: architecture `{_text(first.architecture)}`, {parameters} parameters{context}."


def _table(models: Sequence[CardFile]) -> str:
    if not models:
        return ""
    qualities = [model.quality for model in models if model.quality]
    with_perplexity = any(quality.perplexity is not None for quality in qualities)
    header = ["File", "Type", "Size", "Bits per weight"]
    header += ["Mean KL divergence"] if qualities else []
    header += ["Perplexity"] if with_perplexity else []
    rows = [header, ["---"] * len(header)]
    for model in sorted(models, key=lambda each: each.inspection.size):
        bits = model.inspection.bits_per_weight
        row = [f"`{_text(model.name)}`", model.type, _size(model.inspection.size), f"{bits:.2f}" if bits else ""]
        quality = model.quality
        if qualities:
            row.append(_with_error(quality.mean_kld, quality.standard_error, 4) if quality else "")
        if with_perplexity:
            perplexity = quality.perplexity if quality else None
            row.append(_with_error(perplexity, quality.perplexity_error, 4) if quality and perplexity else "")
        rows.append(row)
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    if not qualities:
        return f"## Files\n\n{table}"
    texts = list(dict.fromkeys(_text(quality.text) for quality in qualities if quality.text))
    on = f" on {', '.join(texts)}" if texts else ""
    note = (
        f"The divergence is that of the next-token probabilities from the unquantized model's, in nats, measured{on}."
    )
    return f"## Files\n\n{table}\n\n{note}"


def _others(files: Sequence[CardFile]) -> str:
    lines = [
        f"- `{_text(file.name)}` ({_OTHER_KINDS.get(file.kind, _text(file.kind))}, {_size(file.inspection.size)})"
        for file in files
    ]
    return "\n".join(["Beside them:", "", *lines]) if lines else ""


def _running(models: Sequence[CardFile], repository: str) -> str:
    if not models:
        return ""
    types = [model.type for model in models]
    usual = next((kind for kind in _USUAL if kind in types), min(models, key=lambda m: m.inspection.size).type)
    return (
        "## How to run it\n\n```sh\n"
        f"llama-cli -hf {repository}:{usual}          # llama.cpp\n"
        f"ollama run hf.co/{repository}:{usual}       # Ollama\n"
        f"ggufkit chat {repository}:{usual}           # ggufkit\n"
        "```"
    )


def _provenance(files: Sequence[CardFile]) -> str:
    first = files[0].inspection
    lines = []
    if version := first.origin.get("ggufkit.version"):
        lines.append(f"Converted by ggufkit {_text(version)}.")
    lines.append(f"Card written by ggufkit {own_version()}, which works with llama.cpp `{pin().commit[:12]}`.")
    revisions = {str(f.inspection.origin.get("ggufkit.source.revision")) for f in files} - {"None"}
    fingerprints = {str(f.inspection.origin.get("ggufkit.source.fingerprint")) for f in files} - {"None"}
    lines += [f"Source revision: `{_text(each)}`." for each in sorted(revisions)]
    lines += [f"Fingerprint of the source: `{_text(each)}`." for each in sorted(fingerprints)]
    matrices = {f.inspection.imatrix for f in files if f.inspection.imatrix}
    for matrix in sorted(matrices, key=str):
        chunks = f", {counted(matrix.chunks, 'chunk')}" if matrix.chunks else ""
        text = _text(_last(matrix.dataset)) if matrix.dataset else "a text that the files do not name"
        users = ", ".join(sorted(f.type for f in files if f.inspection.imatrix == matrix))
        lines.append(f"Importance matrix, calibrated on `{text}`{chunks}, used for {users}.")
    if template := first.template:
        lines.append(f"Chat template: the model's own, SHA-256 `{template.sha256[:16]}…`.")
    sums = [f"{digest}  {_text(name)}" for file in files for name, digest in file.hashes.items()]
    hashes = "\n".join(["SHA-256:", "", "```", *sums, "```"]) if sums else ""
    told = "\n".join(f"- {line}" for line in lines)
    return "\n\n".join(part for part in ("## Provenance", told, hashes) if part)


def _with_error(value: float | None, error: float | None, digits: int) -> str:
    if value is None:
        return ""
    return f"{value:.{digits}f} ± {error:.{digits}f}" if error is not None else f"{value:.{digits}f}"


def _last(path: str) -> str:
    """The last part of a path: where things lie on the maker's machine is nobody's business."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _text(value: object) -> str:
    """Text that can neither break a line or a table nor become markup."""
    plain = "".join(character if character.isprintable() else " " for character in str(value))
    return re.sub(r"([|`<>\[\]\\])", lambda found: f"&#{ord(found[1])};", plain)
