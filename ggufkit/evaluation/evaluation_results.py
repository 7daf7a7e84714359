"""What an evaluation finds: facts about the models, and the figures; `document` is the JSON of `ggufkit eval`."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ggufkit.evaluation.answers.asking import Reply
from ggufkit.evaluation.answers.generations import SideBySide
from ggufkit.evaluation.answers.tasks import TaskResult
from ggufkit.evaluation.baselines.documents import document_of
from ggufkit.evaluation.baselines.results import BaselineResult
from ggufkit.evaluation.calibration import CalibrationCheck
from ggufkit.evaluation.gates import Gates, failures, figures_of
from ggufkit.evaluation.likelihood.running import Running
from ggufkit.evaluation.likelihood.statistics import Divergence, Likelihood, PairedDifference
from ggufkit.evaluation.likelihood.texts import Domain
from ggufkit.evaluation.models import ModelFacts
from ggufkit.evaluation.names import told_apart
from ggufkit.evaluation.provenance import provenance
from ggufkit.llamacpp import cpu

SCHEMA_VERSION = 1
KIND = "evaluation"


@dataclass(frozen=True, slots=True)
class Speed:
    """How the reading went; None where an earlier run had done all of it."""

    prompt_tokens_per_second: float | None
    load_seconds: float | None
    peak_bytes: int | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class DomainResult:
    """The figures of one text."""

    domain: str
    likelihood: Likelihood
    divergence: Divergence | None


@dataclass(frozen=True, slots=True)
class ModelResult:
    """The figures of one model; the base has no divergence, and without a text there is no likelihood either."""

    facts: ModelFacts
    likelihood: Likelihood | None
    divergence: Divergence | None
    domains: Sequence[DomainResult]
    speed: Speed | None
    tasks: Sequence[TaskResult] = ()


@dataclass(frozen=True, slots=True)
class PairedResult:
    """Two models on the same chunks: the mean KLD of the first minus that of the second."""

    first: str
    second: str
    difference: PairedDifference


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All figures of one run."""

    base: ModelResult
    models: Sequence[ModelResult]
    pairs: Sequence[PairedResult]
    domains: Sequence[Domain]
    chunk_tokens: int
    chunks: int
    running: Running
    calibration: CalibrationCheck = field(default_factory=CalibrationCheck)
    generations: Sequence[SideBySide] = ()
    baselines: Sequence[BaselineResult] = ()

    @property
    def names(self) -> list[str]:
        """What the files are called where they stand side by side, the base's first."""
        return told_apart([model.facts.path for model in (self.base, *self.models)])


def document(
    evaluation: Evaluation,
    *,
    version: str,
    build: Mapping[str, Any],
    command: str = "",
    gates: Gates | None = None,
    memory: Sequence[Mapping[str, int] | None] = (),
    speed: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Make the JSON document: `version` is ggufkit's, `build` says which llama.cpp ran.

    Divergences are in nats, sizes in bytes, speeds in tokens per second; `same_top` and `delta_p` are fractions of 1.
    Of what was measured beside it, `memory` has what running each model takes, the base first, and `speed` the rows of
    `ggufkit bench`.
    """
    gates = gates or Gates()
    needs = [*memory, *[None] * (1 + len(evaluation.models) - len(memory))]
    found = {
        **provenance(KIND, SCHEMA_VERSION, version=version, build=build, command=command),
        "settings": {
            "chunk_tokens": evaluation.chunk_tokens,
            "chunks": evaluation.chunks,
            **asdict(evaluation.running),
            "threads": evaluation.running.threads or cpu.usable_cores(),
        },
        "texts": [
            {
                "name": domain.name,
                "sha256": domain.sha256,
                "bytes": domain.bytes,
                "tokens": domain.tokens,
                "chunks": domain.chunks,
            }
            for domain in evaluation.domains
        ],
        "calibration": {
            "checked": list(evaluation.calibration.checked),
            "shared": [
                {"text": it.within, "calibration": it.of, "share": it.share, "too_much": it.is_too_much}
                for it in evaluation.calibration.overlaps
            ],
            "not_here": dict(evaluation.calibration.not_here),
        },
        "gates": asdict(gates),
        "base": {**_model(evaluation.base, evaluation.names[0]), "memory": needs[0]},
        "models": [
            {**_model(model, name), "memory": takes, "failed": list(failures(figures_of(model), gates))}
            for model, name, takes in zip(evaluation.models, evaluation.names[1:], needs[1:], strict=True)
        ],
        "pairs": [
            {"first": pair.first, "second": pair.second, **asdict(pair.difference), "clear": pair.difference.is_clear}
            for pair in evaluation.pairs
        ],
        "generations": [
            {
                "prompt": it.prompt,
                "base": _reply(it.base),
                "replies": [{**_reply(reply), "agreement": asdict(agreement)} for reply, agreement in it.replies],
            }
            for it in evaluation.generations
        ],
        "bench": list(speed),
        "baselines": [document_of(each) for each in evaluation.baselines],
    }
    finite: dict[str, Any] = _finite(found)
    return finite


def _finite(value: Any) -> Any:
    """Write null for what is no number: JSON has no word for it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value


def _reply(reply: Reply) -> dict[str, Any]:
    return {
        "text": reply.text,
        "tokens": len(reply.tokens),
        "finish_reason": reply.finish_reason,
        "error": reply.error,
    }


def _model(result: ModelResult, name: str) -> dict[str, Any]:
    facts = result.facts
    return {
        "file": name,
        "name": facts.name,
        "architecture": facts.architecture,
        "type": facts.type,
        "bytes": facts.bytes,
        "parameters": facts.elements,
        "bits_per_weight": round(facts.bits_per_weight, 4),
        "sha256": _one_hash(facts.hashes),
        "files": dict(facts.hashes),
        "imatrix": facts.imatrix,
        "calibration": facts.calibration,
        "block_types": {name: list(kinds.values()) for name, kinds in facts.block_types.items()},
        "other_types": dict(facts.other_types),
        **_figures(result.likelihood, result.divergence),
        "domains": [{"domain": it.domain, **_figures(it.likelihood, it.divergence)} for it in result.domains],
        "speed": asdict(result.speed) if result.speed else {},
        "tasks": [_task(task) for task in result.tasks],
    }


def _one_hash(hashes: Mapping[str, str]) -> str:
    """Return a file's hash; of a split model the hash of `sha256sum`'s lines about its parts, in their order."""
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    lines = "".join(f"{digest}  {name}\n" for name, digest in hashes.items())
    return hashlib.sha256(lines.encode()).hexdigest()


def _task(result: TaskResult) -> dict[str, Any]:
    return {
        "task": result.task,
        "accuracy": result.accuracy.share,
        "low": result.accuracy.low,
        "high": result.accuracy.high,
        "right": result.accuracy.right,
        "questions": result.accuracy.questions,
        "kinds": {kind: {"accuracy": it.share, "questions": it.questions} for kind, it in result.by_kind.items()},
        "lost": result.lost,
        "gained": result.gained,
        "p_value": result.p_value,
        "unasked": result.unasked,
    }


def _figures(likelihood: Likelihood | None, divergence: Divergence | None) -> dict[str, Any]:
    if likelihood is None:
        return {}
    figures: dict[str, Any] = {"tokens": likelihood.tokens, "perplexity": asdict(likelihood.perplexity)}
    if divergence is None:
        return figures
    return figures | {
        "perplexity_ratio": asdict(divergence.perplexity_ratio),
        "log_perplexity_ratio": asdict(divergence.log_ratio),
        "kl_divergence": {
            "mean": divergence.mean_kld.value,
            "standard_error": divergence.mean_kld.standard_error,
            "median": divergence.median_kld,
            "max": divergence.max_kld,
            "min": divergence.min_kld,
            "percentiles": {f"{percent:g}": value for percent, value in divergence.percentiles.items()},
            "curve": [[percent, value] for percent, value in divergence.curve.items()],
        },
        "same_top": asdict(divergence.same_top),
        "delta_p": {"mean": asdict(divergence.mean_delta_p), "rms": asdict(divergence.rms_delta_p)},
        "correlation": divergence.correlation,
    }
