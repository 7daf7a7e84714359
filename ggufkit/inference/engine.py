"""The one generation loop of the program: tokens in, text out, over llama.cpp's C functions."""

import secrets
import time
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from ggufkit.errors import LlamaCppError, UsageError
from ggufkit.inference.drafting import DraftedSteps, Drafting
from ggufkit.inference.generation import FinishReason, Generation, GenerationResult, Piece
from ggufkit.inference.loaded_model import LoadedModel
from ggufkit.inference.options import LARGEST_SEED, SamplingOptions
from ggufkit.inference.scores import TokenScore, score
from ggufkit.inference.text_stream import TextStream
from ggufkit.llamacpp import native
from ggufkit.peak_memory import peak_memory

if TYPE_CHECKING:
    import numpy as np

_LOGIT_ROWS_AT_ONCE = 128  # a row of 262 144 float32 is one MiB


class Engine(LoadedModel):
    """A model ready to answer. Not for use by several threads at once, but `interrupt` may come from anywhere.

    Between calls of `generate` the engine keeps the tokens in its memory: a prompt that begins with the same tokens
    is evaluated from the first difference on.
    """

    def _prepare(self) -> None:
        self._context: native.Context | None = None
        self._interrupted = False
        self._in_memory: list[int] = []  # what the context holds, or a continuation of it if a call was cut short
        self._turn = 0
        self.drafting: Drafting | None = None  # set from outside; closed with the engine
        if not self.options.vocabulary_only:
            self._context = self._new_context(most_outputs=1 + self.options.most_drafted, chosen=self._attention())

    def close(self) -> None:
        """Free all memory; a second call does nothing."""
        if context := getattr(self, "_context", None):
            context.close()
            self._context = None
        if drafting := getattr(self, "drafting", None):
            drafting.close()
        super().close()

    # ---- computing

    def generate(
        self,
        tokens: Sequence[int],
        sampling: SamplingOptions | None = None,
        *,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        top_scores: int | None = None,
    ) -> Generation:
        """Continue a prompt until the model ends it, a stop string comes up, or there is no more room.

        The room is `max_tokens`, or what is left of the context.

        The prompt's ids are evaluated as they are: nothing is added. The stop string is not part of the reply. With
        `top_scores` every token comes with its score and that many of the likeliest tokens.

        Raises:
            UsageError: no tokens, tokens outside the vocabulary, or an empty stop string.
            InputError: the prompt does not fit in the context.
            LlamaCppError: while iterating, when llama.cpp fails.
            UsageError: while iterating, when another reply was begun meanwhile.
        """
        context = self._check(tokens)
        if not all(stop):
            raise UsageError("a stop string must not be empty")
        if max_tokens is not None and max_tokens < 1:
            raise UsageError("max_tokens must be positive")
        options = sampling or self.sampling_defaults()
        self._interrupted = False
        context.resume()
        return Generation(self._steps(tuple(tokens), options, max_tokens, tuple(stop), top_scores))

    def interrupt(self) -> None:
        """End the running reply after the current token, or its prompt at once; for signal handlers and threads."""
        self._interrupted = True
        if self._context:
            self._context.interrupt()

    def logits(self, tokens: Sequence[int]) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """Return the logits after each token, float32 [n_tokens, n_vocab], computed in a fresh context.

        Keys and values are stored and attention is computed as the engine's options say.

        Raises:
            UsageError: no tokens, or tokens outside the vocabulary.
            InputError: more tokens than the context holds.
            LlamaCppError: llama.cpp failed.
        """
        import numpy as np

        self._check(tokens)
        rows = min(_LOGIT_ROWS_AT_ONCE, len(tokens), self.options.batch_size)
        with self._new_context(most_outputs=rows, chosen=self._attention()) as context:
            parts = [context.logits(tokens[start : start + rows]) for start in range(0, len(tokens), rows)]
        return np.concatenate(parts)

    def _steps(
        self,
        prompt: tuple[int, ...],
        options: SamplingOptions,
        max_tokens: int | None,
        stop: tuple[str, ...],
        top_scores: int | None,
    ) -> Generator[Piece, None, GenerationResult]:
        context = self._live_context()
        seed = secrets.randbelow(LARGEST_SEED + 1) if options.seed is None else options.seed
        stream = TextStream(stop)
        texts: list[str] = []
        scores: list[TokenScore] = []
        scored: TokenScore | None = None
        generated = evaluated = 0
        decoding = 0.0
        reason = FinishReason.INTERRUPTED
        self._turn += 1
        turn = self._turn
        started = first = time.perf_counter()
        reused = self._reuse(prompt)
        sampler = self._sampler(options, seed, prompt)
        try:
            try:
                self._in_memory += prompt[reused:]
                context.decode(prompt[reused:])
                if not context.has_finite_logits():
                    raise LlamaCppError(
                        f"{self.path} computes values that are not numbers: its weights or its metadata are broken"
                    )
            except native.AbortedError:
                self._interrupted = True
            ready = time.perf_counter()
            # Looked up once: the loop runs for every token.
            sample, draw, decode = sampler.sample, sampler.drawing_from(context), context.decode_one
            bytes_of, text_of, feed = self._reply_bytes, self._whole_texts.get, stream.feed
            in_memory, full, clock = self._in_memory, self.context_size, time.perf_counter
            steps = DraftedSteps(self.drafting, context, in_memory) if self.drafting else None
            decode = steps.decode if steps else decode
            while not self._interrupted:
                token = sample(context, steps.row) if steps else draw()
                if not generated:
                    first = time.perf_counter()
                data = bytes_of(token)
                if data is None:
                    reason = FinishReason.STOP
                    break
                generated += 1
                text = text_of(token) if stream.passes else None
                if text is None:
                    text = feed(data)
                texts.append(text)
                if top_scores is not None:
                    scored = score(context.last_logits(steps.row if steps else -1), token, top_scores)
                    scores.append(scored)
                yield Piece(text, token, scored)
                if self._turn != turn:
                    raise UsageError("this reply cannot go on: the engine has begun another one")
                if stream.stopped_by is not None:
                    reason = FinishReason.STOP
                    break
                if generated == max_tokens or len(in_memory) >= full:
                    reason = FinishReason.LENGTH
                    break
                if self._interrupted:
                    break
                in_memory.append(token)
                before = clock()
                decode(token)
                decoding += clock() - before
                evaluated += 1
            ended = time.perf_counter()
            if rest := stream.finish():
                texts.append(rest)
                yield Piece(rest, None)
        finally:
            sampler.close()
        return GenerationResult(
            text="".join(texts),
            finish_reason=reason,
            stop_string=stream.stopped_by,
            context_full=reason is FinishReason.LENGTH and generated != max_tokens,
            prompt_tokens=len(prompt),
            reused_tokens=reused,
            generated_tokens=generated,
            evaluated_tokens=evaluated,
            prompt_seconds=ready - started,
            generation_seconds=max(0.0, ended - first) if generated else 0.0,
            time_to_first_token=max(0.0, first - started),
            load_seconds=self.load_seconds,
            peak_memory=peak_memory(),
            seed=seed,
            decode_seconds=decoding,
            scores=tuple(scores) if top_scores is not None else None,
        )

    def _reuse(self, prompt: tuple[int, ...]) -> int:
        """Cut the memory back to what it shares with the prompt; return how many tokens that is.

        The last token of the prompt is always evaluated anew: its logits are needed.
        """
        context = self._live_context()
        used = context.used()
        longest = min(len(prompt) - 1, len(self._in_memory), used)
        shared = next((at for at in range(longest) if prompt[at] != self._in_memory[at]), longest)
        # Behind an attention window the oldest tokens are gone; what the next one needs to see must still be there.
        window = self._model.sliding_window
        whole = context.first_position() <= max(0, shared - window) if shared and window else True
        if not whole or (shared < used and not context.cut(shared)):
            context.clear()
            shared = 0
        del self._in_memory[shared:]
        return shared

    def _check(self, tokens: Sequence[int]) -> native.Context:
        context = self._live_context()
        self._check_tokens(tokens)
        return context

    def _live_context(self) -> native.Context:
        if self._context is None:
            raise UsageError("only the vocabulary of this model is loaded, or it was closed")
        return self._context
