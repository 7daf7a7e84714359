"""Row errors that are kept: the same ones take minutes on a large model, and are needed by every run."""

import hashlib
import json
from pathlib import Path

from ggufkit.allocation.model import Model
from ggufkit.allocation.options import OptimizeOptions
from ggufkit.allocation.row_errors import HOPELESS, Errors, row_errors
from ggufkit.files import write_atomically
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp import cpu
from ggufkit.progress import Progress
from ggufkit.quantization.direct import library
from ggufkit.quantization.importance import load_importance


def row_errors_of(
    model: Model, options: OptimizeOptions, rows: int, identity: str, folder: Path, progress: Progress
) -> Errors:
    """Compute the errors of all types, or read those that an earlier run has kept. Raises as `row_errors`."""
    kinds = [(choice.name, [kind.name for kind in choice.types]) for choice in model.choices]
    name = hashlib.sha256(json.dumps([identity, rows, kinds]).encode()).hexdigest()[:16]
    path = folder / f"errors-{name}.json"
    if (kept := _kept(path, model)) is not None:
        return kept
    asked = options.quantize
    importance = {}
    if asked.imatrix:
        importance = dict(load_importance(asked.imatrix).only(asked.include_weights, asked.exclude_weights).values)
    threads = options.running.threads or cpu.usable_cores()
    found = row_errors(
        model.headers, model.choices, importance, library(), rows=rows, threads=threads, progress=progress
    )
    document = {tensor: {kind.name: error for kind, error in errors.items()} for tensor, errors in found.items()}
    write_atomically(path, json.dumps(document).encode())
    return found


def _kept(path: Path, model: Model) -> Errors | None:
    """Read errors, None where there are none or something happened to them: then they are computed again."""
    try:
        found = {
            tensor: {TensorType[kind]: float(error) for kind, error in errors.items()}
            for tensor, errors in json.loads(path.read_text(encoding="utf-8")).items()
        }
    except (OSError, ValueError, OverflowError, RecursionError, KeyError, TypeError, AttributeError):
        return None
    if {name: set(errors) for name, errors in found.items()} != {
        choice.name: set(choice.types) for choice in model.choices
    }:
        return None
    return found if all(0 <= error <= HOPELESS for errors in found.values() for error in errors.values()) else None
