"""Results read back from JSON: checked, so that a page is either right or not made."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufkit.errors import InputError

SCHEMA_VERSION = 1
KIND = "evaluation"
_LARGEST_FILE = 64 << 20


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
    domains: Sequence[tuple[str, float, float | None]]  # name, perplexity, mean KLD
    speed: float | None
    peak_bytes: int | None
    sha256: str
    tasks: Sequence["TaskShare"]


@dataclass(frozen=True, slots=True)
class TaskShare:
    """How much of a task was right, as fractions of 1, with the 95 % interval and the p-value against the base."""

    task: str
    share: float
    low: float
    high: float
    p_value: float | None


@dataclass(frozen=True, slots=True)
class Run:
    """One result of `ggufkit eval`; `raw` is the document as it was read."""

    source: str
    base: Model
    models: Sequence[Model]
    raw: Mapping[str, Any]


def read_run(path: Path) -> Run:
    """Read a result of `ggufkit eval -o FILE`.

    Raises:
        InputError: it is none, of a schema that is not known here, or malformed.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise InputError(f"{path} is too large for a result ({path.stat().st_size:,} bytes)")
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise InputError(f"{path} is no result of ggufkit eval", hint="ggufkit eval ... -o run.json makes one")
    return run_of(document, path.name)


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
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{source} is malformed: {type(error).__name__} {error}") from None
    return Run(source, base, models, document)


def _model(it: Mapping[str, Any]) -> Model:
    perplexity = it.get("perplexity") or {}
    kld = it.get("kl_divergence") or {}
    speed = it.get("speed") or {}
    return Model(
        file=str(it["file"]),
        type=str(it["type"]),
        bytes=int(it["bytes"]),
        bits_per_weight=float(it["bits_per_weight"]),
        perplexity=_number(perplexity.get("value")),
        perplexity_error=_number(perplexity.get("standard_error")) or 0.0,
        perplexity_ratio=_number((it.get("perplexity_ratio") or {}).get("value")),
        mean_kld=_number(kld.get("mean")),
        mean_kld_error=_number(kld.get("standard_error")) or 0.0,
        worst_kld=_number((kld.get("percentiles") or {}).get("99.9")),
        same_top=_number((it.get("same_top") or {}).get("value")),
        rms_delta_p=_number(((it.get("delta_p") or {}).get("rms") or {}).get("value")),
        curve=[(float(percent), float(value)) for percent, value in kld.get("curve") or ()],
        block_types={str(k): [str(v) for v in values] for k, values in (it.get("block_types") or {}).items()},
        other_types={str(k): str(v) for k, v in (it.get("other_types") or {}).items()},
        domains=[
            (str(d["domain"]), float(d["perplexity"]["value"]), _number((d.get("kl_divergence") or {}).get("mean")))
            for d in it.get("domains") or ()
        ],
        speed=_number(speed.get("prompt_tokens_per_second")),
        peak_bytes=int(speed["peak_bytes"]) if speed.get("peak_bytes") else None,
        sha256=str(it.get("sha256", "")),
        tasks=[
            TaskShare(
                str(task["task"]),
                float(task["accuracy"]),
                float(task["low"]),
                float(task["high"]),
                _number(task.get("p_value")),
            )
            for task in it.get("tasks") or ()
        ],
    )


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
