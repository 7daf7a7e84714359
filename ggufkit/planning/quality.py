"""How much a type changes what a model says: published figures as a prior, or this model's own measurement.

The measure is the mean Kullback-Leibler divergence, in nats per token, of the next-token probabilities of the quantized
model from those of the F16 or BF16 one: 0 is the same model. Below 0.01 nobody will tell them apart; from 0.1 on the
loss shows; above 0.5 it is another, worse model.

An own measurement is a JSON file of the form

    {"schema_version": 1, "kind": "divergence", "model": "<fingerprint>", "text": "what was read",
     "results": [{"type": "Q4_K_M", "mean_kld": 0.0312, "standard_error": 0.0002, "imatrix": false}, …]}

A result may also hold `perplexity` and `perplexity_error`, which model cards show, and `weight_bytes`, those of all
tensors: a file of another size has other types than the name of its type says.

`fingerprint` below says what identifies a model. Files are looked for as `*.divergence.json` in the checkpoint folder
or beside the GGUF file, and in the folder `divergence` of ggufkit's cache.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufkit.files import write_atomically
from ggufkit.gguf_file.reader import GgufHeader
from ggufkit.llamacpp.find import cache_folder

SCHEMA_VERSION = 1
KIND = "divergence"
PATTERN = "*.divergence.json"
PRIOR_SOURCE = "llama.cpp, tools/perplexity/README.md: Llama 3 8B, wiki.test, against FP16"
_LARGEST_FILE = 16 << 20

# (without, with an importance matrix of 10 M tokens of Wikitext), mean KLD in nats, from PRIOR_SOURCE. F16 and BF16 are
# from its table that compares the two with each other; F32 is exact by definition.
_PRIOR: Mapping[str, tuple[float | None, float | None]] = {
    "F32": (0.0, 0.0),
    "BF16": (0.000025, 0.000025),
    "F16": (0.000025, 0.000025),
    "Q8_0": (0.001355, None),
    "Q6_K": (0.005452, None),
    "Q5_K_M": (0.010762, None),
    "Q5_K_S": (0.016595, None),
    "Q5_1": (0.018045, None),
    "Q5_0": (0.022239, None),
    "Q4_K_M": (0.031273, 0.028152),
    "Q4_K_S": (0.043136, 0.031951),
    "IQ4_NL": (None, 0.035742),
    "IQ4_XS": (None, 0.036334),
    "Q4_1": (0.071683, None),
    "Q4_0": (0.071940, None),
    "Q3_K_L": (0.087176, 0.073077),
    "Q3_K_M": (0.101913, 0.084358),
    "IQ3_M": (None, 0.102534),
    "IQ3_S": (None, 0.111278),
    "IQ3_XS": (None, 0.138693),
    "IQ3_XXS": (None, 0.183625),
    "Q3_K_S": (0.228217, 0.199821),
    "IQ2_M": (None, 0.325989),
    "Q2_K": (0.445132, 0.332223),
    "Q2_K_S": (None, 0.403360),
    "IQ2_S": (None, 0.439197),
    "IQ2_XS": (None, 0.546290),
    "IQ2_XXS": (None, 0.812022),
    "IQ1_M": (None, 1.393084),
    "IQ1_S": (None, 2.254554),
}


@dataclass(frozen=True, slots=True)
class Quality:
    """A mean KLD in nats per token, and where it is from; `measured` on this very model, else a prior."""

    mean_kld: float
    with_imatrix: bool
    measured: bool
    source: str
    standard_error: float | None = None
    perplexity: float | None = None
    perplexity_error: float | None = None
    text: str | None = None  # what was read
    weight_bytes: int | None = None  # of all tensors of the file that was measured


def prior(kind: str, *, with_imatrix: bool) -> Quality | None:
    """Return the published figure for a type; of the two there may be, the one that fits, else the other."""
    without, with_one = _PRIOR.get(kind, (None, None))
    chosen = [(with_one, True), (without, False)] if with_imatrix else [(without, False), (with_one, True)]
    for value, imatrix in chosen:
        if value is not None:
            return Quality(value, imatrix, measured=False, source=PRIOR_SOURCE)
    return None


def fingerprint(headers: Iterable[GgufHeader]) -> str:
    """Identify a model, whatever its types: SHA-256 over architecture, name, and all tensors' names and shapes."""
    headers = list(headers)
    metadata = headers[0].metadata
    lines = sorted(f"{tensor.name} {tensor.shape}" for header in headers for tensor in header.tensors)
    text = "\n".join([str(metadata.get("general.architecture")), str(metadata.get("general.name")), *lines])
    return hashlib.sha256(text.encode()).hexdigest()


def measured(
    model: str, folders: Iterable[Path], weights: Mapping[tuple[str, bool], int] | None = None
) -> Mapping[tuple[str, bool], Quality]:
    """Find what was measured on the model of this fingerprint, by (type, with importance matrix).

    Files that are no such measurement, or of another model, are passed over; of several results the newest file's
    counts. `weights` are the bytes of all tensors: results of files that have others are passed over too.
    """
    sizes = weights or {}
    places = [*folders, cache_folder() / "divergence"]
    files = {path for folder in places if folder.is_dir() for path in folder.glob(PATTERN) if path.is_file()}
    found: dict[tuple[str, bool], Quality] = {}
    for path in sorted(files, key=lambda path: (path.stat().st_mtime, str(path))):
        for result in _results(path, model):
            quality = _quality(result, path)
            if quality:
                key = str(result.get("type", "")).upper(), quality.with_imatrix
                if quality.weight_bytes is None or quality.weight_bytes == sizes.get(key, quality.weight_bytes):
                    found[key] = quality
    return found


def remember(headers: Sequence[GgufHeader], text: str, results: Iterable[Quality], kinds: Iterable[str]) -> Path:
    """Leave measurements of these types where `measured` finds them.

    Those of the same model and text take the place of earlier ones of the same types.

    Raises:
        OutputError: the cache cannot be written.
    """
    model = fingerprint(headers)
    folder = cache_folder() / "divergence"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{model[:16]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.divergence.json"
    by_kind = {(str(it.get("type")), bool(it.get("imatrix"))): it for it in _results(path, model)}
    for kind, found in zip(kinds, results, strict=True):
        by_kind[kind, found.with_imatrix] = {
            "type": kind,
            "mean_kld": found.mean_kld,
            "standard_error": _number(found.standard_error),
            "imatrix": found.with_imatrix,
            "perplexity": _number(found.perplexity),
            "perplexity_error": _number(found.perplexity_error),
            "weight_bytes": found.weight_bytes,
        }
    document = {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "model": model,
        "text": text,
        "results": list(by_kind.values()),
    }
    write_atomically(path, json.dumps(document, indent=1, ensure_ascii=False).encode())
    return path


def _results(path: Path, model: str) -> list[dict[str, Any]]:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            return []
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    if not isinstance(document, dict) or document.get("kind") != KIND or document.get("model") != model:
        return []
    results = document.get("results")
    known = results if isinstance(results, list) else []
    return [{"text": document.get("text"), **result} for result in known if isinstance(result, dict)]


def _quality(result: Mapping[str, Any], path: Path) -> Quality | None:
    mean, error = result.get("mean_kld"), result.get("standard_error")
    if not isinstance(mean, int | float) or isinstance(mean, bool) or not 0 <= mean < 1e6:
        return None
    return Quality(
        float(mean),
        bool(result.get("imatrix", False)),
        measured=True,
        source=str(path),
        standard_error=float(error) if isinstance(error, int | float) else None,
        perplexity=_number(result.get("perplexity")),
        perplexity_error=_number(result.get("perplexity_error")),
        text=text if isinstance(text := result.get("text"), str) else None,
        weight_bytes=size if isinstance(size := result.get("weight_bytes"), int) else None,
    )


def _number(value: Any) -> float | None:
    """Return a finite number that is not negative, None for anything else."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
    return float(value) if good else None
