"""The JSON of baselines within an evaluation's: what was measured, and where; sizes in bytes, speeds per second."""

from dataclasses import asdict
from typing import Any

from ggufkit.evaluation.answers.tasks import TaskResult
from ggufkit.evaluation.baselines.results import BaselineResult, Rate


def document_of(it: BaselineResult) -> dict[str, Any]:
    """Write one row: the same names as those of a model's figures, as far as they mean the same."""
    feet = it.footprint
    written: dict[str, Any] = {
        "name": it.name,
        "title": it.title,
        "origin": it.origin.value,
        "why": it.why,
        "device": it.device,
        "versions": dict(it.versions),
        "source": it.source,
        "notes": it.notes,
        "disk_bytes": feet.disk_bytes,
        "weight_bytes": feet.weight_bytes,
        "loaded_bytes": feet.loaded_bytes,
        "peak_bytes": feet.peak_bytes,
        "load_seconds": feet.load_seconds,
        "prepare_seconds": feet.prepare_seconds,
        "prompt": _rate(feet.prompt, feet.prompt_tokens),
        "generation": _rate(feet.generation, feet.generated_tokens),
        "same_text": it.same_text,
        "tasks": [_task(task) for task in it.tasks],
        "replies": [
            {
                "text": reply.text,
                "tokens": len(reply.tokens),
                "finish_reason": reply.finish_reason,
                "error": reply.error,
                "agreement": asdict(same),
            }
            for reply, same in it.replies
        ],
    }
    if it.likelihood:
        written |= {"tokens": it.likelihood.tokens, "perplexity": asdict(it.likelihood.perplexity)}
    if it.mean_kld:
        written["kl_divergence"] = {"mean": it.mean_kld.value, "standard_error": it.mean_kld.standard_error}
    if it.divergence:
        written["kl_divergence"] |= {
            "median": it.divergence.median_kld,
            "max": it.divergence.max_kld,
            "percentiles": {f"{percent:g}": value for percent, value in it.divergence.percentiles.items()},
        }
        written |= {
            "perplexity_ratio": asdict(it.divergence.perplexity_ratio),
            "same_top": asdict(it.divergence.same_top),
            "delta_p": {"rms": asdict(it.divergence.rms_delta_p)},
        }
    return written


def _rate(rate: Rate | None, tokens: int | None) -> dict[str, Any] | None:
    return None if rate is None else {"tokens": tokens, **asdict(rate)}


def _task(result: TaskResult) -> dict[str, Any]:
    return {
        "task": result.task,
        "accuracy": result.accuracy.share,
        "low": result.accuracy.low,
        "high": result.accuracy.high,
        "right": result.accuracy.right,
        "questions": result.accuracy.questions,
        "lost": result.lost,
        "gained": result.gained,
        "p_value": result.p_value,
    }
