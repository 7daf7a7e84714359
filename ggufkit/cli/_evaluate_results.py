"""What becomes of an evaluation: a JSON document, a page, what is shown, and what `ggufkit plan` remembers."""

import json
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ggufkit import __version__
from ggufkit.cli import _baselines, _evaluate_view, _output
from ggufkit.errors import VerificationError
from ggufkit.evaluation.evaluation_results import Evaluation, document
from ggufkit.evaluation.gates import Gates
from ggufkit.evaluation.likelihood.running import Running
from ggufkit.files import write_atomically
from ggufkit.gguf_file.parts import read_parts
from ggufkit.llamacpp.cpu import usable_cores
from ggufkit.llamacpp.pin import pin
from ggufkit.planning.quality import Quality, remember
from ggufkit.progress import Progress

_UNQUANTIZED = ("F32", "F16", "BF16")


def speed(base: Path, models: list[Path], running: Running, progress: Progress) -> list[dict[str, Any]]:
    """Measure as `ggufkit bench` does by default."""
    from ggufkit.evaluation.speed import measure, rows  # here, for it takes time to import
    from ggufkit.llamacpp.bench import BenchOptions

    files = tuple(dict.fromkeys((*([] if base.is_dir() else [base]), *models)))
    if not files:
        return []
    layers = running.gpu_layers
    options = BenchOptions(
        models=files,
        n_prompt=(512,),
        n_gen=(128,),
        n_threads=(running.threads or usable_cores(),),
        type_k=(running.cache_type_k,),
        type_v=(running.cache_type_v,),
        n_gpu_layers=(layers,) if isinstance(layers, int) else (),
        rpc=running.rpc_servers,
    )
    found, _ = measure(options, progress=progress)
    return rows(found)


def written(
    found: Evaluation, gates: Gates, speed: list[dict[str, Any]], memory: Sequence[dict[str, int] | None]
) -> dict[str, Any]:
    """Make the document; `memory` is what running the models takes, the base first, or empty."""
    pinned = pin()
    called = {str(model.facts.path): name for model, name in zip((found.base, *found.models), found.names, strict=True)}
    speed = [{**row, "file": called.get(str(row["model_filename"]))} for row in speed]
    return document(
        found,
        version=__version__,
        build={"commit": pinned.commit, "llama_cpp_python": pinned.version},
        command=shlex.join(["ggufkit", *sys.argv[1:]]),
        gates=gates,
        memory=memory,
        speed=speed,
    )


def publish(
    written: dict[str, Any],
    found: Evaluation,
    output: Path | None,
    report: Path | None,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write it, make a page of it, and show it."""
    if output is not None:
        write_atomically(output, json.dumps(written, indent=1, ensure_ascii=False).encode())
    if as_json:
        _output.print_json(written)
    elif quiet:
        for model in found.models:
            print(f"{model.facts.path} {model.divergence.mean_kld.value:.6f}" if model.divergence else "")
    else:
        _evaluate_view.show(found)
        _baselines.show(written)
    for name in _broken(found):
        _output.warn(f"{name} computes values that are no numbers: it is broken")
    _remember(found)
    if report is not None:
        from ggufkit.reports import render
        from ggufkit.reports.reading import run_of

        write_atomically(report, render([run_of(written, report.stem)]).encode())


def _broken(found: Evaluation) -> list[str]:
    """Name the files that gave something else than numbers; where it is the base, nothing is known of the others."""
    base = found.base.likelihood
    if base and not math.isfinite(base.perplexity.value):
        return [found.names[0]]
    return [
        name
        for name, model in zip(found.names, (found.base, *found.models), strict=True)
        if (model.likelihood and not math.isfinite(model.likelihood.perplexity.value))
        or (model.divergence and not math.isfinite(model.divergence.mean_kld.value))
    ]


def _remember(found: Evaluation) -> None:
    """Leave the divergences where `ggufkit plan` finds them."""
    if any(overlap.is_too_much for overlap in found.calibration.overlaps):
        return  # better than the models are
    if found.base.facts.type not in _UNQUANTIZED:
        return  # what was lost before does not show
    text = ", ".join(domain.name for domain in found.domains)
    results = [
        (
            model.facts.type,
            Quality(
                model.divergence.mean_kld.value,
                model.facts.imatrix,
                measured=True,
                source=text,
                standard_error=model.divergence.mean_kld.standard_error,
                perplexity=model.likelihood.perplexity.value,
                perplexity_error=model.likelihood.perplexity.standard_error,
                weight_bytes=model.facts.weight_bytes,
            ),
        )
        for model in found.models
        if model.divergence and model.likelihood and math.isfinite(model.divergence.mean_kld.value)
    ]
    if results:
        kinds, qualities = zip(*results, strict=True)
        remember(read_parts(found.models[0].facts.path), text, qualities, kinds)


def refuse_failures(written: dict[str, Any]) -> None:
    """End as a failure where a model fails a limit.

    Raises:
        VerificationError: naming each figure that failed.
    """
    failed = [f"{model['file']}: {what}" for model in written["models"] for what in model["failed"]]
    if failed:
        raise VerificationError("; ".join(failed), hint="a larger type, or --imatrix, loses less")
