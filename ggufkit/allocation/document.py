"""An optimization as one JSON document, which `ggufkit report` makes a page of."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ggufkit.allocation.choices import Types
from ggufkit.allocation.options import OptimizeOptions
from ggufkit.allocation.results import Optimization, Optimized
from ggufkit.allocation.verification import Verified
from ggufkit.evaluation.overlap import LIMIT, WINDOW
from ggufkit.evaluation.provenance import provenance
from ggufkit.llamacpp import cpu

SCHEMA_VERSION = 1
KIND = "allocation"


def document(
    source: str,
    found: Optimization,
    options: OptimizeOptions,
    *,
    version: str,
    build: Mapping[str, Any],
    command: str,
) -> dict[str, Any]:
    """Make the document: `version` is ggufkit's, `build` says which llama.cpp ran.

    Divergences are in nats, sizes in bytes, times in seconds; `same_top` and `share` are fractions of 1.
    """
    model = found.model
    metadata = model.headers[0].metadata
    return {
        **provenance(KIND, SCHEMA_VERSION, version=version, build=build, command=command),
        "dry_run": False,
        "source": source,
        "model": {
            "name": metadata.get("general.name"),
            "architecture": metadata.get("general.architecture"),
            "weights": model.weights,
            "bytes": model.bytes,
        },
        "settings": {
            "effort": options.effort.value,
            "sensitivity": options.sensitivity.value,
            "pool": options.pool,
            "refine": options.refine,
            "equalize": options.equalize,
            "search_scales": options.quantize.search_scales,
            "imatrix": str(options.quantize.imatrix) if options.quantize.imatrix else None,
            "threads": options.running.threads or cpu.usable_cores(),
            "workers": options.workers,
        },
        "texts": [{**asdict(text), "use": text.use.value} for text in found.texts.texts],
        "overlap": {
            "window_tokens": WINDOW,
            "limit": LIMIT,
            "found": [{**asdict(each), "is_too_much": each.is_too_much} for each in found.texts.overlaps],
        },
        "tensors": {choice.name: choice.weights for choice in model.choices},
        "on_lattice": sorted(model.on_lattice),
        "equalized_channels": found.equalized,
        "scales_searched": found.scales_searched,
        "sensitivities": [
            {"tensor": name, "cost": each.cost, "type": each.reference.name}
            for name, each in found.sensitivities.items()
        ],
        "compared": [asdict(each) for each in found.compared],
        "seconds": found.seconds,
        "estimate": {**asdict(found.estimate), "seconds": found.estimate.seconds},
        "results": [_result(each, found) for each in found.files],
        "frontier": [asdict(point) for point in found.frontier],
    }


def _result(each: Optimized, found: Optimization) -> dict[str, Any]:
    preset = each.preset
    return {
        "target": each.target,
        "budget": each.budget,
        "output": str(each.output),
        "recipe": str(each.recipe),
        "bytes": each.bytes,
        "share_of_budget": each.bytes / each.budget,
        "bits_per_weight": each.bits_per_weight,
        "tensor_types": dict(each.tensor_types),
        "tensors": _spelled(each.types),
        "preset": preset.candidate.name if preset else None,
        "preset_tensors": _spelled(found.model.preset_types(preset.candidate.name)) if preset else {},
        "chosen": each.chosen.candidate.name,
        "candidates": [_candidate(it) for it in each.verified],
        "refined": [asdict(tensor) for tensor in each.refined],
        "difference": {**asdict(each.difference), "is_clear": each.difference.is_clear} if each.difference else None,
        "seconds": each.seconds,
    }


def _candidate(it: Verified) -> dict[str, Any]:
    return {
        "name": it.candidate.name,
        "is_preset": it.candidate.is_preset,
        "is_refined": bool(it.candidate.refined),
        "is_equalized": bool(it.candidate.equalized),
        "scales_searched": it.candidate.scales_searched,
        "bytes": it.candidate.bytes,
        "predicted_by_probes": _number(it.candidate.predicted_by_probes),
        "predicted_kld": _number(it.candidate.predicted),
        "mean_kld": it.measured.kld,
        "kld_999": it.measured.tail,
        "same_top": it.measured.same_top,
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _spelled(types: Types) -> dict[str, str]:
    return {name: kind.name for name, kind in types.items()}
