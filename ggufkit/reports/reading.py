"""Results read back from JSON: checked, so that a page is either right or not made."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ggufkit.errors import InputError
from ggufkit.evaluation.gates import Gates
from ggufkit.reports import speeds
from ggufkit.reports.allocation.reading import Allocation, read_allocation
from ggufkit.reports.speeds import TestSpeed

SCHEMA_VERSION = 1
KIND = "evaluation"
_LARGEST_FILE = 64 << 20
_MAKE_ONE = "ggufkit eval ... -o run.json makes one"


@dataclass(frozen=True, slots=True)
class Model:
    """One model's figures: sizes in bytes, divergence in nats; what was not measured is None."""

    file: str
    type: str
    bytes: int
    bits_per_weight: float
    perplexity: float | None
    perplexity_error: float
    perplexity_ratio: float | None
    mean_kld: float | None
    mean_kld_error: float
    worst_kld: float | None  # the 99.9th percentile
    same_top: float | None
    rms_delta_p: float | None
    curve: Sequence[tuple[float, float]]
    block_types: Mapping[str, Sequence[str]]
    other_types: Mapping[str, str]
    domains: Sequence[tuple[str, float | None, float | None]]  # name, perplexity, mean KLD
    speed: float | None
    peak_bytes: int | None
    sha256: str
    tasks: Sequence["TaskShare"]
    imatrix: bool = False
    files: Mapping[str, str] = field(default_factory=dict)  # SHA-256 of each
    memory: Mapping[str, int] = field(default_factory=dict)  # bytes by part, planned; and context_size
    largest_kld: float | None = None

    @property
    def planned_bytes(self) -> int | None:
        """The memory that was planned, all parts together."""
        return sum(value for name, value in self.memory.items() if name != "context_size") if self.memory else None


@dataclass(frozen=True, slots=True)
class TaskShare:
    """How much of a task was right, as fractions of 1, with the 95 % interval and the p-value against the base."""

    task: str
    share: float
    low: float
    high: float
    p_value: float | None


@dataclass(frozen=True, slots=True)
class Other:
    """A baseline: another system on the same work, or why it could not run. Bytes, nats, tokens per second."""

    title: str
    why: str | None
    origin: str
    device: str
    bytes: int | None
    peak_bytes: int | None
    prompt: float | None
    generation: float | None
    perplexity: float | None
    perplexity_error: float
    mean_kld: float | None
    tasks: Sequence["TaskShare"]
    notes: str
    same_text: bool


@dataclass(frozen=True, slots=True)
class Run:
    """One result of `ggufkit eval`; `raw` is the document as it was read."""

    source: str
    base: Model
    models: Sequence[Model]
    raw: Mapping[str, Any]
    gates: Gates = field(default_factory=Gates)
    speeds: Sequence[TestSpeed] = ()
    others: Sequence[Other] = ()

    @property
    def files(self) -> list[str]:
        """The names of the files, the base's first."""
        return [model.file for model in (self.base, *self.models)]


def read_run(path: Path) -> Run:
    """Read a result of `ggufkit eval -o FILE`.

    Raises:
        InputError: it is none, of a schema that is not known here, or malformed.
    """
    return _run(read_text(path), path)


def read_results(paths: Sequence[Path]) -> tuple[list[Run], list[Allocation]]:
    """Read results of `ggufkit eval` with speeds, as `read_all`, and results of `ggufkit optimize`.

    Raises:
        InputError: a file is neither.
    """
    chosen = {path: found for path in paths if (found := read_allocation(read_text(path), path))}
    others = [path for path in paths if path not in chosen]
    return read_all(others) if others else [], list(chosen.values())


def read_all(paths: Sequence[Path]) -> list[Run]:
    """Read results of `ggufkit eval`, and speeds that `ggufkit bench` or llama-bench measured of the same files.

    Raises:
        InputError: a file is neither; or there are only speeds, or speeds of other files.
    """
    texts = [(path, read_text(path)) for path in paths]
    rows = [(path, speeds.parse(text, str(path))) for path, text in texts]
    runs = [_run(text, path) for (path, text), (_, found) in zip(texts, rows, strict=True) if found is None]
    if not runs:
        raise InputError(
            f"{paths[0]} has speeds only, which say nothing about loss",
            hint="give the result of ggufkit eval too: ggufkit report RUN.json BENCH.json",
        )
    for path, found in rows:
        if found is not None:
            runs = speeds.attach(runs, found, path)
    return runs


def read_text(path: Path) -> str:
    """Read a file that should be JSON. Raises InputError."""
    try:
        if path.is_file() and path.stat().st_size > _LARGEST_FILE:
            raise InputError(f"{path} is too large for a result ({path.stat().st_size:,} bytes)")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"cannot read {path}: it is no text", hint=_MAKE_ONE) from None


def _run(text: str, path: Path) -> Run:
    try:
        document = _whole_characters(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path}: it is no JSON ({error})", hint=_MAKE_ONE) from None
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise InputError(f"{path} is no result of ggufkit eval", hint=_MAKE_ONE)
    return run_of(document, path.name)


def _whole_characters(value: Any) -> Any:
    """Put U+FFFD in the place of lone surrogates, which JSON can hold and a page cannot."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    if isinstance(value, list):
        return [_whole_characters(each) for each in value]
    if isinstance(value, dict):
        return {_whole_characters(key): _whole_characters(each) for key, each in value.items()}
    return value


def run_of(document: Mapping[str, Any], source: str) -> Run:
    """Take a result as it was written.

    Raises:
        InputError: it has a schema that is not known here, or is malformed.
    """
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise InputError(f"{source} has the schema version {version}, and this ggufkit reads {SCHEMA_VERSION}")
    try:
        base, models = _model(document["base"]), [_model(model) for model in document["models"]]
        limits = {str(name): _number(value) for name, value in (document.get("gates") or {}).items()}
        gates = Gates(**{each.name: limits.get(each.name) for each in fields(Gates)})
        others = [_other(it) for it in document.get("baselines") or ()]
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise InputError(f"{source} is malformed: {type(error).__name__} {error}") from None
    found = speeds.read(document.get("bench") or [], source)
    found = speeds.of_files(found, [base.file, *(model.file for model in models)])
    return Run(source, base, models, document, gates, found, others)


def _model(it: Mapping[str, Any]) -> Model:
    perplexity = it.get("perplexity") or {}
    kld = it.get("kl_divergence") or {}
    speed = it.get("speed") or {}
    return Model(
        file=str(it["file"]),
        type=str(it["type"]),
        bytes=int(it["bytes"]),
        bits_per_weight=_finite(it["bits_per_weight"]),
        perplexity=_number(perplexity.get("value")),
        perplexity_error=_number(perplexity.get("standard_error")) or 0.0,
        perplexity_ratio=_number((it.get("perplexity_ratio") or {}).get("value")),
        mean_kld=_number(kld.get("mean")),
        mean_kld_error=_number(kld.get("standard_error")) or 0.0,
        worst_kld=_number((kld.get("percentiles") or {}).get("99.9")),
        same_top=_number((it.get("same_top") or {}).get("value")),
        rms_delta_p=_number(((it.get("delta_p") or {}).get("rms") or {}).get("value")),
        curve=_curve(kld.get("curve") or ()),
        block_types={str(k): [str(v) for v in values] for k, values in (it.get("block_types") or {}).items()},
        other_types={str(k): str(v) for k, v in (it.get("other_types") or {}).items()},
        domains=[
            (
                str(each["domain"]),
                _number((each.get("perplexity") or {}).get("value")),
                _number((each.get("kl_divergence") or {}).get("mean")),
            )
            for each in it.get("domains") or ()
        ],
        speed=_number(speed.get("prompt_tokens_per_second")),
        peak_bytes=int(speed["peak_bytes"]) if speed.get("peak_bytes") else None,
        sha256=str(it.get("sha256", "")),
        tasks=_tasks(it),
        imatrix=it.get("imatrix") is True,
        files={str(name): str(digest) for name, digest in (it.get("files") or {}).items()},
        largest_kld=_number(kld.get("max")),
        memory={str(name): int(value) for name, value in (it.get("memory") or {}).items()},
    )


def _curve(points: Sequence[Sequence[Any]]) -> list[tuple[float, float]]:
    """Take the points that are numbers: a broken model gives none."""
    found = [(_number(percent), _number(value)) for percent, value in points]
    return [(percent, value) for percent, value in found if percent is not None and value is not None]


def _tasks(it: Mapping[str, Any]) -> list[TaskShare]:
    return [
        TaskShare(
            str(task["task"]),
            _finite(task["accuracy"]),
            _finite(task["low"]),
            _finite(task["high"]),
            _number(task.get("p_value")),
        )
        for task in it.get("tasks") or ()
    ]


def _other(it: Mapping[str, Any]) -> Other:
    perplexity = it.get("perplexity") or {}
    return Other(
        title=str(it.get("title") or it["name"]),
        why=str(it["why"]) if it.get("why") else None,
        origin=str(it.get("origin", "")),
        device=str(it.get("device") or ""),
        bytes=_whole(it.get("weight_bytes") or it.get("disk_bytes")),
        peak_bytes=_whole(it.get("peak_bytes")),
        prompt=_number((it.get("prompt") or {}).get("median")),
        generation=_number((it.get("generation") or {}).get("median")),
        perplexity=_number(perplexity.get("value")),
        perplexity_error=_number(perplexity.get("standard_error")) or 0.0,
        mean_kld=_number((it.get("kl_divergence") or {}).get("mean")),
        tasks=_tasks(it),
        notes=str(it.get("notes") or ""),
        same_text=it.get("same_text") is not False,
    )


def _finite(value: Any) -> float:
    number = _number(value)
    if number is None:
        raise ValueError(f"{value!r} is no number")
    return number


def _whole(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
