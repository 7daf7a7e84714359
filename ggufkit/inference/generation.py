"""A reply: its pieces while it is made, and what it took in the end."""

from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple

from ggufkit.errors import LlamaCppError
from ggufkit.inference.scores import TokenScore


class FinishReason(StrEnum):
    """Why a reply ended."""

    STOP = "stop"  # the model said so, or a stop string came up
    LENGTH = "length"  # the wanted number of tokens is there, or the context is full
    INTERRUPTED = "interrupted"  # the caller did not want more


class Piece(NamedTuple):
    """What one token added to the reply; `text` may be empty, `token` is None for text held back until the end.

    `score` is there when it was asked for.
    """

    text: str
    token: int | None
    score: TokenScore | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationResult:
    """A finished reply and what it took. Times are in seconds, memory in bytes.

    `prompt_seconds` is for the evaluated tokens only: `reused_tokens` of the prompt were in memory already.
    `generation_seconds` starts with the first token, so it spans one evaluation less than the reply has tokens;
    `decode_seconds` is the part of it that llama.cpp computed. `scores` are there when they were asked for.
    """

    text: str
    finish_reason: FinishReason
    stop_string: str | None
    context_full: bool
    prompt_tokens: int
    reused_tokens: int
    generated_tokens: int
    evaluated_tokens: int
    prompt_seconds: float
    generation_seconds: float
    time_to_first_token: float
    load_seconds: float
    peak_memory: int
    seed: int
    decode_seconds: float = 0.0
    scores: tuple[TokenScore, ...] | None = None

    @property
    def prompt_tokens_per_second(self) -> float:
        """Return how fast the prompt was read; 0 when nothing had to be."""
        return _rate(self.prompt_tokens - self.reused_tokens, self.prompt_seconds)

    @property
    def tokens_per_second(self) -> float:
        """Return how fast the reply was generated, sampling and decoding of text included."""
        return _rate(self.evaluated_tokens, self.generation_seconds)

    def as_json(self) -> dict[str, Any]:
        """Return everything as values that JSON has, but for the scores, whose tokens need a model to be named."""
        values = asdict(replace(self, scores=None))
        del values["scores"]
        return {
            **values,
            "prompt_tokens_per_second": self.prompt_tokens_per_second,
            "tokens_per_second": self.tokens_per_second,
        }


class Generation:
    """A reply in the making: iterate over its pieces, then read `result`."""

    def __init__(self, steps: Generator[Piece, None, GenerationResult]) -> None:
        self._result: GenerationResult | None = None
        self._pieces = self._run(steps)

    def __iter__(self) -> Iterator[Piece]:
        return self._pieces

    def __next__(self) -> Piece:
        return next(self._pieces)

    @property
    def result(self) -> GenerationResult:
        """Return the result; pieces that nobody took yet are generated first."""
        for _ in self._pieces:
            pass
        if self._result is None:
            raise LlamaCppError("the reply was given up before it ended")
        return self._result

    def _run(self, steps: Generator[Piece, None, GenerationResult]) -> Iterator[Piece]:
        self._result = yield from steps


def _rate(count: int, seconds: float) -> float:
    return count / seconds if count > 0 and seconds > 0 else 0.0
