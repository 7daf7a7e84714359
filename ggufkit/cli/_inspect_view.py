"""How `ggufkit inspect` shows a model: lines for people, one document for programs."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from ggufkit.cli import _output
from ggufkit.counting import counted

if TYPE_CHECKING:
    from ggufkit.inspection.facts import Inspection, VocabularyFacts
    from ggufkit.inspection.preview import Preview

_LONGEST_VALUE = 200


def document(
    inspection: "Inspection",
    previewed: "Preview | None",
    *,
    called: str,
    with_tensors: bool,
    with_metadata: bool,
) -> dict[str, Any]:
    """Give the facts as what `--json` prints."""
    found: dict[str, Any] = {"model": called}
    for field in dataclasses.fields(inspection):
        if field.name not in {"tensors", "metadata", "path"}:
            found[field.name] = _plain(getattr(inspection, field.name))
    found |= {
        "path": str(inspection.path),
        "bytes": inspection.size,
        "bits_per_weight": inspection.bits_per_weight,
        "tensor_count": len(inspection.tensors),
    }
    if with_tensors:
        found["tensors"] = [dataclasses.asdict(tensor) for tensor in inspection.tensors]
    if with_metadata:
        found["metadata"] = _plain(inspection.metadata)
    if previewed:
        found["preview"] = _plain(previewed)
    return found


def show(
    inspection: "Inspection",
    previewed: "Preview | None",
    *,
    called: str,
    with_tensors: bool,
    with_metadata: bool,
) -> None:
    """Print the facts for people."""
    bits = f", {inspection.bits_per_weight:.2f} bits per weight" if inspection.bits_per_weight else ""
    parameters = f"{count(inspection.parameters)} parameters" if inspection.parameters else "no tensors"
    print(printable(f"{called}: {inspection.architecture}, {parameters}{bits}, {_output.size(inspection.size)}"))
    for name, value in _lines(inspection):
        print(f"  {name:<16} {printable(value)}")
    if with_metadata:
        print("\nmetadata")
        for key, value in inspection.metadata.items():
            print(f"  {printable(key)} = {printable(shortened(value))}")
    if with_tensors:
        print("\ntensors")
        for tensor in inspection.tensors:
            shape = " x ".join(map(str, tensor.shape))
            print(f"  {printable(tensor.name):<40} {tensor.type:<8} {shape:<24} {_output.size(tensor.bytes):>10}")
    if previewed:
        _show_preview(previewed)
    for warning in inspection.warnings:
        _output.warn(printable(warning))


def _lines(inspection: "Inspection") -> list[tuple[str, str]]:
    total = max(inspection.tensor_bytes, 1)
    types = ", ".join(f"{s.tensors} {s.type} ({s.bytes / total:.1%})" for s in inspection.types)
    lines: list[tuple[str, str | None]] = [
        ("name", inspection.name),
        ("type", inspection.file_type),
        ("tensors", f"{len(inspection.tensors)}: {types}" if inspection.tensors else None),
        ("active", f"{count(inspection.active_parameters)} per token" if inspection.active_parameters else None),
        ("context", f"{inspection.context_length:,}" if inspection.context_length else None),
        *((key, shortened(value)) for key, value in inspection.sizes.items()),
        *_vocabulary(inspection.vocabulary),
    ]
    if inspection.vocabulary:
        template = inspection.template
        others = f"; also {', '.join(template.others)}" if template and template.others else ""
        lines.append(
            (
                "template",
                f"{counted(template.characters, 'character')}, {template.sha256[:12]}{others}" if template else "none",
            )
        )
    if matrix := inspection.imatrix:
        chunks = f", {counted(matrix.chunks, 'chunk')}" if matrix.chunks else ""
        entries = f", {counted(matrix.entries, 'entry', 'entries')}" if matrix.entries else ""
        text = matrix.dataset or "an unknown text"
        lines.append(("imatrix", f"{matrix.file or 'unnamed'}, from {text}{chunks}{entries}"))
    lines.append(("license", inspection.license))
    lines += [(key.removeprefix("general."), str(value)) for key, value in inspection.origin.items()]
    if len(inspection.files) > 1:
        lines.append(("files", f"{len(inspection.files)}"))
    return [(name, value) for name, value in lines if value is not None]


def _vocabulary(vocabulary: "VocabularyFacts | None") -> list[tuple[str, str | None]]:
    if vocabulary is None:
        return []
    kind = "/".join(part for part in (vocabulary.kind, vocabulary.pretokenizer) if part)
    merges = f", {counted(vocabulary.merges, 'merge')}" if vocabulary.merges else ""
    lines: list[tuple[str, str | None]] = [("vocabulary", f"{counted(vocabulary.tokens, 'token')}{merges} ({kind})")]
    added = {"bos": vocabulary.add_bos, "eos": vocabulary.add_eos}
    for token in vocabulary.special:
        put = added.get(token.role)
        said = "" if put is None else ", is added" if put else ", is not added"
        text = f" {token.text!r}" if token.text is not None else ""
        lines.append((f"{token.role} token", f"{token.id}{text}{said}"))
    return lines


def _show_preview(previewed: "Preview") -> None:
    print("\nconversation")
    for message in previewed.messages:
        print(f"  {message.role}: {printable(message.content)}")
    if previewed.tokens is not None:
        print("\nbecomes (control tokens in «», those that end an answer with !)")
        for token in previewed.tokens:
            text = printable(token.text)
            marked = f"«{text}»{'!' if token.ends else ''}" if token.control or token.ends else repr(token.text)[1:-1]
            print(f"  {token.id:>8}  {marked}")
    elif previewed.text:
        print("\nbecomes")
        print(repr(previewed.text))
    for warning in previewed.warnings:
        _output.warn(printable(warning))


def count(number: int) -> str:
    """Write a number of weights for people: `1.10 B`, `494 M`, `12 k`."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return str(number)


def shortened(value: Any) -> str:
    """Write a value of metadata on one line."""
    if isinstance(value, dict) and "array_of" in value:
        return f"[{value['length']:,} of {value['array_of']}]"
    text = repr(value) if isinstance(value, list | str) else str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}… ({len(text):,} characters)"


def printable(text: str) -> str:
    """Show what could move the cursor or forge a line: names and values come from strangers' files."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if hasattr(value, "items"):
        return {key: _plain(each) for key, each in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value  # JSON knows no NaN
