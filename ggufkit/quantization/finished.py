"""What was finished, so that an interrupted run of several types goes on where it stopped.

Beside each output lies a hidden note of how it came about: what was done (the type and every option that changes a
byte), from what (the identity and the hash of every file of the source), and what came of it (sizes and hashes). A
note is believed only where all three are found again.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ggufkit.errors import GgufkitError
from ggufkit.files import write_atomically
from ggufkit.gguf_file.reader import read_header
from ggufkit.llamacpp.find import find
from ggufkit.quantization.plan import QuantizationPlan

_FORMAT = 1


def note_path(output: Path) -> Path:
    """Return where the note about an output lies."""
    return output.with_name(f".{output.name}.ggufkit-made")


def recall(plan: QuantizationPlan, outputs: Sequence[Path], content: Sequence[Path]) -> float | None:
    """Return the seconds that a finished output took, or None if it is not there, not whole or made otherwise.

    `content` are the files that the source consists of.
    """
    try:
        note = json.loads(note_path(outputs[0]).read_text(encoding="utf-8"))
        known = note["format"] == _FORMAT and note["recipe"] == recipe(plan) and _same_source(note["source"], content)
        if known and _same_outputs(note["outputs"], outputs):
            for path in outputs:
                read_header(path)
            return float(note["seconds"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError, GgufkitError):
        pass
    return None


def remember(
    plan: QuantizationPlan, outputs: Sequence[Path], source: Sequence[Mapping[str, Any]], seconds: float
) -> None:
    """Write the note about a finished output; `source` is what `described` said. Raises OutputError."""
    note = {
        "format": _FORMAT,
        "recipe": recipe(plan),
        "source": list(source),
        "outputs": [_described(path) for path in outputs],
        "seconds": round(seconds, 2),
    }
    write_atomically(note_path(outputs[0]), json.dumps(note, indent=1).encode())


def forget(output: Path) -> None:
    """Remove the note about an output that is about to be made anew."""
    note_path(output).unlink(missing_ok=True)


def described(content: Sequence[Path]) -> list[dict[str, Any]]:
    """Describe the files of a source: name, identity and SHA-256. Reads all of them."""
    return [{**_described(path), "identity": _identity(path)} for path in content]


def recipe(plan: QuantizationPlan) -> str:
    """Hash everything that decides about the output's bytes apart from the weights."""
    options = plan.options
    says: dict[str, Any] = {
        "type": plan.type.name,
        "header": _header_hash(plan.source),
        "tensors": [(tensor.name, tensor.to.name, tensor.part) for tensor in plan.tensors],
        "overrides": plan.overrides,
        "imatrix": options.imatrix and [str(options.imatrix), _hash(options.imatrix)],
        "weights": [options.include_weights, options.exclude_weights],
        "llama.cpp": _build(),
    }
    if options.search_scales:
        from ggufkit.quantization.scale_search import VERSION  # loads numpy

        says["scales"] = VERSION
    return hashlib.sha256(json.dumps(says, sort_keys=True).encode()).hexdigest()


def _header_hash(source: Path) -> str:
    end = read_header(source).data_offset
    with source.open("rb") as file:
        return hashlib.sha256(file.read(end)).hexdigest()


def _build() -> list[Any]:
    library = find().library("llama").resolve()
    status = library.stat()
    return [library.name, status.st_size, status.st_mtime_ns]


def _same_source(noted: Sequence[Mapping[str, Any]], content: Sequence[Path]) -> bool:
    """The same files by identity, which is quick; else by their bytes."""
    if len(noted) != len(content):
        return False
    return all(
        then["size"] == path.stat().st_size and (then["identity"] == _identity(path) or then["sha256"] == _hash(path))
        for then, path in zip(noted, content, strict=True)
    )


def _same_outputs(noted: Sequence[Mapping[str, Any]], outputs: Sequence[Path]) -> bool:
    return len(noted) == len(outputs) and all(
        then["size"] == path.stat().st_size and then["sha256"] == _hash(path)
        for then, path in zip(noted, outputs, strict=True)
    )


def _described(path: Path) -> dict[str, Any]:
    return {"name": path.name, "size": path.stat().st_size, "sha256": _hash(path)}


def _identity(path: Path) -> list[int]:
    """Change, not modification: `st_ctime` moves whatever is done to a file, and nobody can set it back."""
    status = path.stat()
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _hash(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
