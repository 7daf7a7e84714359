"""Many prompts answered side by side: sequences of one context, a new prompt in as soon as a reply has ended.

Reading the weights of a model takes most of the time that a token takes. Here that is done once for all sequences.
Each sequence has a memory of its own, so that none pays for the length of the others. Short prompts are read together,
long ones alone: cut into other pieces, attention over them would be rounded otherwise than `Engine` has it.
"""

import secrets
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

from ggufkit.errors import GgufkitError, LlamaCppError, UsageError
from ggufkit.inference.batch_requests import BatchRequest, Pending, Slot, read_together
from ggufkit.inference.generation import FinishReason, GenerationResult
from ggufkit.inference.loaded_model import LoadedModel
from ggufkit.inference.model_file import cache_bytes
from ggufkit.inference.options import LARGEST_SEED, EngineOptions
from ggufkit.inference.scores import score
from ggufkit.inference.text_stream import TextStream
from ggufkit.llamacpp import cpu, native
from ggufkit.progress import Progress, silent

MOST_SEQUENCES = 255  # llama-cparams.h, LLAMA_MAX_SEQ, less one for the shared beginning
_DEFAULT_SEQUENCES = 64
_MEMORY_SHARE = 0.5  # of what is free, for the memories of all sequences
_SHORTEST_PREFIX = 8  # tokens; less is not worth a copy
_WAITING_PARTS = 8  # new prompts are begun when one in so many sequences is empty
_WINDOW = 8  # requests looked ahead for each sequence: those of like length are begun together


_Outcome = tuple[int, GenerationResult | GgufkitError]


class BatchEngine(LoadedModel):
    """A model that answers many prompts at once; `context_size` is the room of each."""

    def __init__(
        self,
        path: Path,
        options: EngineOptions,
        progress: Progress,
        sequences: int | None = None,
        most: int = 0,
        room_alone: int | None = None,
    ) -> None:
        self._wanted_sequences = sequences
        self._most = most
        self._room_alone = room_alone
        self._context: native.Context | None = None
        self._interrupted = False
        super().__init__(path, options, progress)

    @classmethod
    def open(
        cls,
        path: Path | str,
        options: EngineOptions | None = None,
        *,
        progress: Progress = silent,
        sequences: int | None = None,
        most: int = 0,
        room_alone: int | None = None,
    ) -> Self:
        """Load a GGUF model for up to `sequences` prompts at once.

        None: 64, or as many as the memory has room for, and no more than the `most` that there will be (0: unknown).
        `room_alone`: the context that each prompt would have by itself; attention is computed as there, for the two
        ways to compute it are rounded differently. None: as large as here.

        Raises:
            As `LoadedModel.open`.
            UsageError: `sequences` is not from 1 to 255.
        """
        if sequences is not None and not 1 <= sequences <= MOST_SEQUENCES:
            raise UsageError(f"{sequences} prompts at once are not possible: 1 to {MOST_SEQUENCES}")
        return cls(Path(path), options or EngineOptions(), progress, sequences, most, room_alone)

    def _prepare(self) -> None:
        self._sequences = min(self._wanted_sequences or self._fitting_sequences(), self._most or MOST_SEQUENCES)
        chosen = self._attention(self._room_alone)
        self._at_once = chosen.micro_batch_size
        # One sequence more holds the beginning that all prompts share.
        self._context = self._new_context(
            chosen=chosen,
            most_outputs=self._sequences + 1,
            size=(self._sequences + 1) * self.context_size,
            sequences=self._sequences + 1,
        )
        self._batch = native.SequenceBatch(self._model.lib, max(self.options.batch_size, self._sequences))
        self._slots: list[Slot | None] = [None] * self._sequences
        self._room = self.context_size
        self._prefix: tuple[int, ...] = ()

    def close(self) -> None:
        """Free all memory; a second call does nothing."""
        if self._context:
            self._context.close()
            self._context = None
        super().close()

    @property
    def sequences(self) -> int:
        """Return how many prompts are answered at once."""
        return self._sequences

    def interrupt(self) -> None:
        """End `run`, or the next one, after the current step; for signal handlers and threads."""
        self._interrupted = True
        if self._context:
            self._context.interrupt()

    def run(self, requests: Iterable[BatchRequest]) -> Generator[_Outcome, None, None]:
        """Answer prompts; yield the key of each with its result, or the reason why there is none, as they are done.

        Requests are taken a few at a time. After `interrupt` the iterator ends; unfinished replies are lost.

        Raises:
            LlamaCppError: llama.cpp failed.
        """
        context = self._context
        if context is None:
            raise UsageError("the model was closed")
        pending = Pending(iter(requests), _WINDOW * self._sequences)
        try:
            while not self._interrupted:
                yield from self._admit(context, pending)
                if not any(self._slots):
                    return
                if not pending:
                    self._close_ranks(context)
                yield from self._step(context)
        except native.AbortedError:
            return
        finally:
            for at, slot in enumerate(self._slots):
                if slot:
                    self._leave(context, at, slot)
            self._prefix = ()
            if context.handle:
                context.clear()
            # Not at the beginning: whoever interrupts while prompts are being made means this run.
            self._interrupted = False
            context.resume()

    # ---- coming and going

    def _admit(self, context: native.Context, pending: Pending) -> Iterator[_Outcome]:
        """Fill the empty sequences, once enough are empty: read the prompts and draw the first tokens."""
        empty = [at for at, slot in enumerate(self._slots) if slot is None]
        if len(empty) * _WAITING_PARTS < self._sequences:
            return
        begun: list[tuple[int, Slot]] = []
        for at in empty:
            while self._slots[at] is None and pending:
                if not self._prefix and not any(self._slots):
                    self._share(context, pending.shared())
                request = pending.take()
                try:
                    slot = self._slots[at] = self._begin(context, at, request)
                    begun.append((at, slot))
                except GgufkitError as error:
                    yield request.key, error
        for group in read_together(begun, self._at_once):
            yield from self._read_prompts(context, group)

    def _read_prompts(self, context: native.Context, group: list[tuple[int, Slot]]) -> Iterator[_Outcome]:
        if len(group) == 1:
            [(at, slot)] = group
            self._read(context, slot.request.tokens[slot.held :], slot.held, at, wants_last=True)
            rows = [-1]
        else:
            self._batch.clear()
            rows = [
                self._batch.add(slot.request.tokens[slot.held :], slot.held, at, wants_last=True) for at, slot in group
            ]
            context.decode_many(self._batch)
        for row, (at, slot) in zip(rows, group, strict=True):
            slot.held = len(slot.request.tokens)
            slot.ready = time.perf_counter()
            if context.has_finite_logits(row):
                yield from self._draw(context, at, slot, row)
            else:
                message = f"{self.path} computes values that are not numbers: its weights or metadata are broken"
                self._leave(context, at, slot)
                yield slot.request.key, LlamaCppError(message)

    def _begin(self, context: native.Context, at: int, request: BatchRequest) -> Slot:
        self._check_tokens(request.tokens)
        if request.max_tokens is not None and request.max_tokens < 1:
            raise UsageError("max_tokens must be positive")
        if not all(request.stop):
            raise UsageError("a stop string must not be empty")
        seed = request.sampling.seed
        seed = secrets.randbelow(LARGEST_SEED + 1) if seed is None else seed
        sampler = self._sampler(request.sampling, seed, request.tokens)
        reused = self._reuse(context, at, request.tokens)
        return Slot(
            request=request,
            seed=seed,
            sampler=sampler,
            stream=TextStream(request.stop),
            begun=time.perf_counter(),
            reused=reused,
            held=reused,
        )

    def _share(self, context: native.Context, prefix: tuple[int, ...]) -> None:
        """Read what all prompts begin with once, in a sequence of its own."""
        if len(prefix) < _SHORTEST_PREFIX or len(prefix) > self.context_size:
            return
        self._read(context, prefix, 0, self._sequences, wants_last=False)
        self._prefix = prefix

    def _reuse(self, context: native.Context, at: int, tokens: tuple[int, ...]) -> int:
        """Begin a sequence with what it has in common with the shared beginning; return how many tokens that is."""
        longest = min(len(self._prefix), len(tokens) - 1)
        shared = next((place for place in range(longest) if tokens[place] != self._prefix[place]), longest)
        if shared < _SHORTEST_PREFIX or (shared < len(self._prefix) and self._model.keeps_state):
            return 0
        # Behind an attention window the oldest tokens are gone; what the next one needs to see must still be there.
        oldest = max(0, shared - self._model.sliding_window) if self._model.sliding_window else len(self._prefix)
        if shared < len(self._prefix) and context.first_position(self._sequences) > oldest:
            return 0
        context.copy(self._sequences, at)
        if shared < len(self._prefix) and not context.cut(shared, at):
            context.cut(0, at)
            return 0
        return shared

    def _leave(self, context: native.Context, at: int, slot: Slot) -> None:
        slot.sampler.close()
        if context.handle:  # an iterator that was given up may end after the engine
            context.cut(0, at)
        self._slots[at] = None

    def _close_ranks(self, context: native.Context) -> None:
        """Move the last sequences into the gaps: llama.cpp computes only those together that lie side by side."""
        gaps = [at for at, slot in enumerate(self._slots) if slot is None]
        last = len(self._slots) - 1
        for gap in gaps:
            while last > gap and self._slots[last] is None:
                last -= 1
            if last <= gap:
                return
            context.copy(last, gap)
            context.cut(0, last)
            self._slots[gap], self._slots[last] = self._slots[last], None

    # ---- computing

    def _read(
        self, context: native.Context, tokens: Sequence[int], position: int, sequence: int, *, wants_last: bool
    ) -> None:
        """Append tokens to one sequence. Raises AbortedError and LlamaCppError."""
        for start in range(0, len(tokens), self.options.batch_size):
            part = tokens[start : start + self.options.batch_size]
            ends = start + len(part) == len(tokens)
            self._batch.clear()
            self._batch.add(part, position + start, sequence, wants_last=wants_last and ends)
            context.decode_many(self._batch)

    def _step(self, context: native.Context) -> Iterator[_Outcome]:
        """Compute and draw one token more of every reply; yield those that have ended."""
        working = [(at, slot) for at, slot in enumerate(self._slots) if slot]
        self._batch.fill_one_each(
            [slot.token for _, slot in working], [slot.held for _, slot in working], [at for at, _ in working]
        )
        context.decode_many(self._batch)
        for row, (at, slot) in enumerate(working):
            slot.held += 1
            yield from self._draw(context, at, slot, row)

    def _draw(self, context: native.Context, at: int, slot: Slot, row: int) -> Iterator[_Outcome]:
        try:
            reason = self._next_token(context, slot, row)
        except LlamaCppError as error:
            self._leave(context, at, slot)
            yield slot.request.key, error
            return
        if reason is not None:
            self._leave(context, at, slot)
            yield slot.request.key, slot.result(reason, self.load_seconds)

    def _next_token(self, context: native.Context, slot: Slot, row: int) -> FinishReason | None:
        request = slot.request
        token = slot.sampler.sample(context, row)
        slot.first = slot.first or time.perf_counter()
        data = self._reply_bytes(token)
        if data is None:
            return FinishReason.STOP
        slot.generated += 1
        if request.spelled and (spelling := request.spelled.get(token)):
            data += spelling.encode()
        slot.texts.append(slot.stream.feed(data))
        if request.top_scores is not None:
            slot.scores.append(score(context.last_logits(row), token, request.top_scores))
        if slot.stream.stopped_by is not None:
            return FinishReason.STOP
        if slot.generated == request.max_tokens or slot.held >= self._room:
            return FinishReason.LENGTH
        slot.token = token
        return None

    def _fitting_sequences(self) -> int:
        """Return how many sequences the memory has room for."""
        options = self.options
        each = cache_bytes(self._header, self.context_size, options.cache_type_k, options.cache_type_v)
        if not each or native.has_gpu():
            return _DEFAULT_SEQUENCES
        room = int(cpu.available_memory() * _MEMORY_SHARE / each) - 1
        return max(1, min(_DEFAULT_SEQUENCES, room))
