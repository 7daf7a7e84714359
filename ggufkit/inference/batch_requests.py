"""Prompts that wait for an answer, and those that are being answered."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ggufkit.inference.generation import FinishReason, GenerationResult
from ggufkit.inference.options import SamplingOptions
from ggufkit.inference.scores import TokenScore
from ggufkit.inference.text_stream import TextStream
from ggufkit.llamacpp import native
from ggufkit.peak_memory import peak_memory

_LONG_PROMPT = 64  # tokens; ggml computes attention over fewer row by row (ops.cpp, GGML_FA_TILE_Q)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRequest:
    """A prompt to continue; `key` says which one it is. The rest is as for `Engine.generate`.

    Tokens in `spelled`, which write nothing by themselves, write what it says into the text.
    """

    key: int
    tokens: tuple[int, ...]
    sampling: SamplingOptions
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    top_scores: int | None = None
    spelled: Mapping[int, str] = field(default_factory=dict)


@dataclass(slots=True)
class Slot:
    """A sequence at work: what is still to be read of its prompt, or the reply as far as it is."""

    request: BatchRequest
    seed: int
    sampler: native.Sampler
    stream: TextStream
    begun: float
    reused: int
    held: int  # tokens that the context holds
    token: int = -1  # the last one of the reply, which it does not hold yet; -1 before the first
    first: float = 0.0
    ready: float = 0.0
    texts: list[str] = field(default_factory=list)
    scores: list[TokenScore] = field(default_factory=list)
    generated: int = 0

    def result(self, reason: FinishReason, load_seconds: float) -> GenerationResult:
        """End the reply and sum it up."""
        self.texts.append(self.stream.finish())
        request, ended = self.request, time.perf_counter()
        evaluated = self.held - len(request.tokens)
        return GenerationResult(
            text="".join(self.texts),
            finish_reason=reason,
            stop_string=self.stream.stopped_by,
            context_full=reason is FinishReason.LENGTH and self.generated != request.max_tokens,
            prompt_tokens=len(request.tokens),
            reused_tokens=self.reused,
            generated_tokens=self.generated,
            evaluated_tokens=evaluated,
            prompt_seconds=self.ready - self.begun,
            generation_seconds=ended - self.first,
            time_to_first_token=self.first - self.begun,
            load_seconds=load_seconds,
            peak_memory=peak_memory(),
            seed=self.seed,
            scores=None if request.top_scores is None else tuple(self.scores),
        )


class Pending:
    """Requests that wait, looked at a window at a time, in which the longest prompts come first."""

    def __init__(self, requests: Iterator[BatchRequest], window: int) -> None:
        self._requests = requests
        self._window = window
        self._waiting: list[BatchRequest] = []

    def __bool__(self) -> bool:
        self._fill()
        return bool(self._waiting)

    def take(self) -> BatchRequest:
        """Return the next one."""
        self._fill()
        return self._waiting.pop()

    def shared(self) -> tuple[int, ...]:
        """Return the tokens with which all that wait begin; none for a single one."""
        self._fill()
        prompts = [request.tokens for request in self._waiting]
        if len(prompts) < 2:
            return ()
        first, last = min(prompts), max(prompts)
        longest = min(len(first), len(last) - 1)
        return first[: next((at for at in range(longest) if first[at] != last[at]), longest)]

    def _fill(self) -> None:
        if not self._waiting:
            for request in self._requests:
                self._waiting.append(request)
                if len(self._waiting) == self._window:
                    break
            self._waiting.sort(key=lambda request: len(request.tokens))


def read_together(begun: Iterable[tuple[int, Slot]], at_once: int) -> Iterator[list[tuple[int, Slot]]]:
    """Put short prompts together as long as they are computed `at_once` (tokens), and each long one alone."""
    group: list[tuple[int, Slot]] = []
    size = 0
    for at, slot in begun:
        unread = len(slot.request.tokens) - slot.held
        if group and (unread >= _LONG_PROMPT or size + unread > at_once):
            yield group
            group, size = [], 0
        if unread >= _LONG_PROMPT:
            yield [(at, slot)]
        else:
            group.append((at, slot))
            size += unread
    if group:
        yield group
