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
from ggufkit.quantization.scale_search import VERSION

_FEWER = 4  # times fewer rows where scales are searched for, which takes longer


def row_errors_of(
    model: Model, options: OptimizeOptions, rows: int, identity: str, folder: Path, progress: Progress
) -> Errors:
    """Compute the errors of all types, or read those that an earlier run has kept. Raises as `row_errors`."""
    return _errors(model, options, rows, identity, folder, progress)


def gains_of(
    model: Model, options: OptimizeOptions, rows: int, identity: str, folder: Path, progress: Progress
) -> Errors:
    """Say what is left of each error when scales are searched for, as a share of it. As `row_errors_of`.

    Fewer rows tell that: the shares of single rows differ little.
    """
    rows = rows_of_gains(rows)
    plain = _errors(model, options, rows, identity, folder, progress)
    better = _errors(model, options, rows, identity, folder, progress, search_scales=True)
    return {
        name: {kind: better[name][kind] / error if error > 0 else 1.0 for kind, error in errors.items()}
        for name, errors in plain.items()
    }


def rows_of_gains(rows: int) -> int:
    """Give the rows that tell the gains, of those that tell the errors."""
    return max(1, rows // _FEWER)


def _errors(
    model: Model,
    options: OptimizeOptions,
    rows: int,
    identity: str,
    folder: Path,
    progress: Progress,
    *,
    search_scales: bool = False,
) -> Errors:
    kinds = [(choice.name, [kind.name for kind in choice.types]) for choice in model.choices]
    says = [identity, rows, kinds, *([f"scales {VERSION}"] if search_scales else [])]
    name = hashlib.sha256(json.dumps(says).encode()).hexdigest()[:16]
    path = folder / f"errors-{name}.json"
    if (kept := _kept(path, model)) is not None:
        return kept
    asked = options.quantize
    importance = {}
    if asked.imatrix:
        importance = dict(load_importance(asked.imatrix).only(asked.include_weights, asked.exclude_weights).values)
    found = row_errors(
        model.headers,
        model.choices,
        importance,
        library(),
        rows=rows,
        search_scales=search_scales,
        threads=options.running.threads or cpu.usable_cores(),
        progress=progress,
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
