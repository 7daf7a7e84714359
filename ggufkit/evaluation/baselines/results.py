"""What is found of a baseline, here or elsewhere: figures beside those of GGUF files; or why there are none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from ggufkit.evaluation.answers.asking import Reply
from ggufkit.evaluation.answers.generations import Agreement
from ggufkit.evaluation.answers.tasks import TaskResult
from ggufkit.evaluation.likelihood.statistics import Divergence, Estimate, Likelihood

PATIENCE = 7200.0  # seconds: a large model may be quantized for an hour without a word


class Origin(StrEnum):
    """Where figures come from."""

    HERE = "here"  # measured in this run, on this machine
    ELSEWHERE = "elsewhere"  # brought in as JSON
    NOT_RUN = "not run"  # `why` says what was in the way


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens per second: the median of the samples, their extremes, and all of them."""

    median: float
    low: float
    high: float
    samples: tuple[float, ...]

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Rate | None":
        """Summarize samples; None without any."""
        if not samples:
            return None
        import statistics  # here, for most evaluations have no baselines, and it takes time to import

        return cls(statistics.median(samples), min(samples), max(samples), tuple(samples))


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """How fast a model runs and what it takes, measured alike for GGUF files and baselines; None: not measured.

    Attributes:
        disk_bytes: the files that it is loaded from.
        weight_bytes: its weights as they are held, or would be saved.
        loaded_bytes: resident memory of the process when it was loaded.
        peak_bytes: the most resident memory of the process, loading and timing included.
        load_seconds: time to load (and to quantize, where that is done while loading).
        prepare_seconds: time to export or quantize beforehand, once.
        prompt: reading a prompt of `prompt_tokens`.
        generation: generating `generated_tokens`, greedily, from an empty context.
    """

    disk_bytes: int | None = None
    weight_bytes: int | None = None
    loaded_bytes: int | None = None
    peak_bytes: int | None = None
    load_seconds: float | None = None
    prepare_seconds: float | None = None
    prompt_tokens: int | None = None
    prompt: Rate | None = None
    generated_tokens: int | None = None
    generation: Rate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineResult:
    """One row of the table.

    Attributes:
        name: as in `--against`, or as the file of results says.
        title: the system and what it does to the weights.
        origin: where the figures come from.
        why: what was in the way; None where there are figures.
        device: what it ran on; None: this machine's CPU.
        versions: of the packages that it ran with.
        source: the file that it was read from.
        notes: what else whoever measured wants to be known.
        footprint: memory and speed.
        likelihood: of the text; None without one.
        divergence: from the base; None without a text, or where it was measured elsewhere.
        mean_kld: its mean, wherever it was measured.
        same_text: whether `likelihood` and `mean_kld` are of the text, cut in the same way, that the others have read.
        tasks: paired with the base where the answers are known one by one.
        replies: to the prompts, with the agreement with the base's.
    """

    name: str
    title: str
    origin: Origin
    why: str | None = None
    device: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    source: str | None = None
    notes: str | None = None
    footprint: Footprint = field(default_factory=Footprint)
    likelihood: Likelihood | None = None
    divergence: Divergence | None = None
    mean_kld: Estimate | None = None
    same_text: bool = True
    tasks: Sequence[TaskResult] = ()
    replies: Sequence[tuple[Reply, Agreement]] = ()


@dataclass(frozen=True, slots=True)
class Against:
    """What `--against` asks for.

    Attributes:
        names: baselines to run.
        files: results that were measured elsewhere.
        checkpoint: the folder that baselines run; None: the base, which must be one then.
        prompt_tokens: length of the prompt whose reading is timed.
        generated_tokens: how many tokens' generation is timed.
        repeats: how often both are timed.
        patience: seconds for which a baseline may give no sign of life before it is ended; None: for ever.
    """

    names: Sequence[str] = ()
    files: Sequence[Path] = ()
    checkpoint: Path | None = None
    prompt_tokens: int = 512
    generated_tokens: int = 128
    repeats: int = 3
    patience: float | None = PATIENCE
