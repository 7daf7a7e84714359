"""Speculative decoding: a small model drafts tokens, and the large one checks several in one call.

Every token is still drawn from the large model's own logits, by the same sampler: a drafted token that is the one drawn
has its successor's logits ready, any other is forgotten. So the distribution of replies is that of the large model
alone; only the last bits of a sum may differ, for batches are computed in another order.

Whether it pays depends on the machine and the text. So it is timed while it runs: generating without drafts and with
drafts of several lengths take turns, and the fastest is stayed with, until it is looked at again.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from ggufkit.errors import UsageError
from ggufkit.inference.loaded_model import LoadedModel
from ggufkit.inference.options import EngineOptions
from ggufkit.llamacpp import native

LENGTHS = (0, 2, 4, 8, 16)  # what is tried
_SURE = 0.5  # a token less likely than that is not worth checking
_TRIES = 3  # calls for each length before one is chosen
_STAY = 48  # calls until another length is tried again
_MEMORY = 0.8  # how much of an old timing is kept when there is a new one


class DraftModel(LoadedModel):
    """The small model. It keeps the tokens it has read, as the engine does."""

    def _prepare(self) -> None:
        self._held: list[int] = []
        self._context: native.Context | None = self._new_context(most_outputs=1, chosen=self._attention())

    def close(self) -> None:
        """Free all memory; a second call does nothing."""
        if context := getattr(self, "_context", None):
            context.close()
            self._context = None
        super().close()

    def draft(self, tokens: Sequence[int], most: int) -> list[int]:
        """Continue tokens by those that are likely, at most so many."""
        context = self._context
        if context is None or len(tokens) + most >= self.context_size:
            return []
        longest = min(len(self._held), len(tokens) - 1)
        if self._held[:longest] != tokens[:longest]:
            longest = next(at for at in range(longest) if self._held[at] != tokens[at])
        if longest < context.used() and not context.cut(longest):
            context.clear()
            longest = 0
        context.decode(tokens[longest:])
        drafted: list[int] = []
        while True:
            token, chance = _likeliest(context)
            if chance < _SURE:
                break
            drafted.append(token)
            if len(drafted) == most:
                break
            context.decode_one(token)
        self._held = [*tokens, *drafted][: context.used()]
        return drafted


@dataclass(slots=True)
class _Timing:
    calls: int = 0
    seconds_per_token: float = float("inf")

    def note(self, seconds: float, tokens: int) -> None:
        new = seconds / max(1, tokens)
        self.calls += 1
        # The first call is also the first touch of memory; it does not count once there is another.
        old = self.seconds_per_token if self.calls > 2 else new
        self.seconds_per_token = _MEMORY * old + (1 - _MEMORY) * new


@dataclass(slots=True)
class Drafting:
    """A draft model, and what was learned about how much to draft.

    Attributes:
        model: the small model.
        most: the largest number of drafted tokens that are checked at once.
        drafted: tokens that were drafted.
        accepted: those of them that were right.
    """

    model: DraftModel
    most: int = LENGTHS[-1]
    drafted: int = 0
    accepted: int = 0
    _timings: dict[int, _Timing] = field(default_factory=dict)
    _calls: int = 0

    @classmethod
    def open(cls, path: Path, target: LoadedModel, most: int) -> Self:
        """Load the draft model for a large one.

        Raises:
            UsageError: their vocabularies differ, or the large model cannot take back what it has read.
            GgufFileError: it cannot be loaded.
        """
        if target.cannot_go_back:
            raise UsageError(f"{target.path} is a recurrent model: it cannot take back what was drafted wrongly")
        options = EngineOptions(
            context_size=target.context_size,
            threads=target.options.threads,
            threads_batch=target.options.threads_batch,
            gpu_layers=target.options.gpu_layers,
        )
        model = DraftModel.open(path, options)
        try:
            if (difference := _difference(model, target)) is not None:
                raise UsageError(
                    f"{path} cannot draft for {target.path}: {difference}",
                    hint="a draft model must have the same vocabulary, as small models of the same family have",
                )
        except BaseException:
            model.close()
            raise
        return cls(model, most)

    def length(self) -> int:
        """Choose how many tokens to draft for the next call."""
        lengths = [length for length in LENGTHS if length <= self.most]
        self._calls += 1
        for length in lengths:
            if self._timings.setdefault(length, _Timing()).calls < _TRIES:
                return length
        if self._calls % _STAY < _TRIES:
            return lengths[self._calls // _STAY % len(lengths)]
        return min(lengths, key=lambda length: self._timings[length].seconds_per_token)

    def note(self, length: int, seconds: float, tokens: int) -> None:
        """Remember what a call took that yielded so many tokens."""
        self._timings[length].note(seconds, tokens)

    def close(self) -> None:
        """Free the draft model."""
        self.model.close()


class DraftedSteps:
    """The steps of one reply: `decode` appends the drawn token, and `row` says where the logits after it are."""

    def __init__(self, drafting: Drafting, context: native.Context, tokens: list[int]) -> None:
        """`tokens`: all that the reply has so far, prompt included; the caller appends to it before `decode`."""
        self.row = -1
        self._drafting = drafting
        self._context = context
        self._tokens = tokens
        self._drafted: list[int] = []
        self._right = 0
        self._length = 0
        self._seconds: float | None = None

    def decode(self, token: int) -> None:
        """Have the logits after a token ready: they are, if it was drafted; else compute them, with new drafts."""
        if self._right < len(self._drafted) and self._drafted[self._right] == token:
            self._right += 1
            self._drafting.accepted += 1
            self.row = self._right
            return
        self._note()
        started = time.perf_counter()
        context, before = self._context, len(self._tokens) - 1
        if context.used() > before:
            context.cut(before)
        self._length = self._drafting.length()
        room = min(self._length, context.size - before - 2)
        self._drafted = self._drafting.model.draft(self._tokens, room) if room > 0 else []
        self._right = 0
        if self._drafted:
            self._drafting.drafted += len(self._drafted)
            context.decode_rows([token, *self._drafted])
            self.row = 0
        else:
            context.decode_one(token)
            self.row = -1
        self._seconds = time.perf_counter() - started

    def _note(self) -> None:
        if self._seconds is not None:
            self._drafting.note(self._length, self._seconds, 1 + self._right)


def _likeliest(context: native.Context) -> tuple[int, float]:
    import numpy as np

    logits = context.last_logits()
    token = int(logits.argmax())
    return token, float(1 / np.exp(logits - logits[token]).sum())


def _difference(draft: LoadedModel, target: LoadedModel) -> str | None:
    """Say in what two vocabularies differ; the sizes may, for some are padded."""
    if abs(draft.vocabulary_size - target.vocabulary_size) > 128:  # what llama.cpp allows
        return f"it has {draft.vocabulary_size} tokens, not {target.vocabulary_size}"
    for token in range(min(draft.vocabulary_size, target.vocabulary_size)):
        if draft.token_text(token) != target.token_text(token):
            return f"token {token} is {draft.token_text(token)!r}, not {target.token_text(token)!r}"
    return None
