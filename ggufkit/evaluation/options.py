"""What can be chosen about an evaluation."""

from dataclasses import dataclass, field
from pathlib import Path

from ggufkit.errors import UsageError
from ggufkit.evaluation.likelihood.running import Running
from ggufkit.evaluation.likelihood.texts import DEFAULT_CHUNKS, DEFAULT_LENGTH


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """How models are compared.

    Attributes:
        chunk_tokens: tokens of a chunk, of which the second half is scored.
        chunks: how many are read in all; None: all that the texts hold.
        running: threads, devices and caches, the same for all models.
        folder: where work lies that an interrupted run goes on with; None: in ggufkit's cache.
        keep_logits: keep the base's log-probabilities as this file, which llama-perplexity reads too.
        max_tokens: most tokens of a reply to a prompt or a question.
        calibration: what models were calibrated or chosen with, besides what their files say.
    """

    chunk_tokens: int = DEFAULT_LENGTH
    chunks: int | None = DEFAULT_CHUNKS
    running: Running = field(default_factory=Running)
    folder: Path | None = None
    keep_logits: Path | None = None
    max_tokens: int = 128
    calibration: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        """Refuse values that make no sense. Raises UsageError."""
        if self.chunk_tokens < 16:
            raise UsageError(f"a chunk of {self.chunk_tokens} tokens is too short; 16 at least")
        if self.chunks is not None and self.chunks < 1:
            raise UsageError("--chunks must be positive")
