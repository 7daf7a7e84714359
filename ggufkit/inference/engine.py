"""The one generation loop of the program: tokens in, text out, over llama.cpp's C functions."""

import secrets
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ggufkit.errors import GgufFileError, InputError, LlamaCppError, UsageError
from ggufkit.inference.generation import FinishReason, Generation, GenerationResult, Piece, peak_memory
from ggufkit.inference.model_file import cache_bytes, check_model_file
from ggufkit.inference.options import DEFAULT_CONTEXT_SIZE, LARGEST_SEED, EngineOptions, SamplingOptions
from ggufkit.inference.text_stream import TextStream
from ggufkit.llamacpp import cpu, native
from ggufkit.progress import Progress, silent

if TYPE_CHECKING:
    import numpy as np

_LOGIT_ROWS_AT_ONCE = 128  # a row of 262 144 float32 is one MiB


class Engine:
    """A model ready to answer. Not for use by several threads at once, but `interrupt` may come from anywhere.

    Between calls of `generate` the engine keeps the tokens in its memory: a prompt that begins with the same tokens
    is evaluated from the first difference on.
    """

    def __init__(self, path: Path, options: EngineOptions, progress: Progress) -> None:
        started = time.perf_counter()
        self._header = check_model_file(path)
        self.path = path
        self.options = options
        self._context: native.Context | None = None
        self._interrupted = False
        self._in_memory: list[int] = []  # what the context holds, or a continuation of it if a call was cut short
        self._pieces: dict[int, bytes | None] = {}
        self._control_tokens: dict[str, int] | None = None
        self._turn = 0
        layers = options.gpu_layers if isinstance(options.gpu_layers, int) else -1
        self._model = native.Model(
            path,
            gpu_layers=layers,
            vocabulary_only=options.vocabulary_only,
            on_progress=lambda fraction: progress("Loading", int(fraction * 1000), 1000, "steps"),
        )
        try:
            self._adapters = [native.Adapter(self._model, adapter) for adapter in options.adapters]
            if not options.vocabulary_only:
                self._context = self._new_context(most_outputs=1)
        except BaseException:
            self.close()
            raise
        progress("Loading", 1000, 1000, "steps")
        self.load_seconds = time.perf_counter() - started

    @classmethod
    def open(cls, path: Path | str, options: EngineOptions | None = None, *, progress: Progress = silent) -> Self:
        """Load a GGUF model (for a split one, its first file). Use it as a context manager.

        Raises:
            GgufFileError: not a GGUF file, or one that llama.cpp cannot load.
            LlamaCppError: not enough memory for the context.
            MissingDependencyError: llama.cpp is not installed.
        """
        return cls(Path(path), options or EngineOptions(), progress)

    def close(self) -> None:
        """Free all memory; a second call does nothing."""
        if self._context:
            self._context.close()
            self._context = None
        self._model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # ---- what the model is

    @property
    def context_size(self) -> int:
        """Return how many tokens prompt and reply may fill together."""
        return self._wanted_context_size

    @property
    def training_context(self) -> int:
        """Return how many tokens the model was trained to see at once."""
        return self._model.training_context

    @property
    def description(self) -> str:
        """Describe the model in llama.cpp's words, such as `llama 8B Q4_K - Medium`."""
        return self._model.description

    @property
    def vocabulary_size(self) -> int:
        """Return the number of tokens."""
        return self._model.vocabulary_size

    @property
    def bos(self) -> int | None:
        """Return the id of the beginning-of-sequence token."""
        return self._model.bos

    @property
    def eos(self) -> int | None:
        """Return the id of the end-of-sequence token."""
        return self._model.eos

    @property
    def wants_bos(self) -> bool:
        """Tell whether every prompt should begin with the beginning-of-sequence token."""
        return self._model.wants_bos

    def metadata(self, key: str) -> str | None:
        """Return the value of a scalar or string key of the file as text; None when absent."""
        return self._model.metadata(key)

    def sampling_defaults(self) -> SamplingOptions:
        """Return llama.cpp's defaults with what the model's file asks for (`general.sampling.*`) laid over them.

        A value in the file that makes no sense is passed over.
        """
        found: dict[str, Any] = {}
        for name, key, kind in _SAMPLING_KEYS:
            text = self.metadata(key)
            if text is not None:
                try:
                    found |= {name: kind(text)}
                    SamplingOptions(**{name: kind(text)})
                except (ValueError, UsageError):
                    del found[name]
        return SamplingOptions(**found)

    # ---- tokens and text

    def tokenize(self, text: str, *, parse_special: bool = False, add_special: bool = False) -> list[int]:
        """Split text into token ids.

        `parse_special` makes tokens such as `<|im_end|>` of their spelling; `add_special` adds BOS or EOS as the model
        wants them. Lone surrogates become U+FFFD.

        Raises:
            GgufFileError: the file holds no vocabulary.
        """
        if not self._model.has_vocabulary:
            raise GgufFileError(f"{self.path} holds no vocabulary, so no text can be given to it")
        data = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").encode()
        return self._model.tokenize(data, add_special=add_special, parse_special=parse_special)

    def token_bytes(self, token: int, *, special: bool = False) -> bytes:
        """Return the bytes that a token stands for in a text; control tokens are empty unless `special`.

        Raises:
            UsageError: the vocabulary has no such token.
        """
        if not 0 <= token < self.vocabulary_size:
            raise UsageError(f"token {token} is outside the vocabulary of {self.vocabulary_size}")
        return self._model.token_bytes(token, special=special)

    def text_of(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Return the text of tokens; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(self.token_bytes(token, special=special) for token in tokens).decode("utf-8", "replace")

    def token_text(self, token: int) -> str:
        """Return a token as the vocabulary spells it, such as `<|im_end|>` or `Ġthe`."""
        return self._model.token_text(token)

    def is_control(self, token: int) -> bool:
        """Tell whether only a template may write this token, such as `<|im_start|>`."""
        return self._model.is_control(token)

    def strips_spaces(self, token: int) -> tuple[bool, bool]:
        """Tell whether a special token swallows the white space to its left, and to its right."""
        return self._model.strips_spaces(token)

    def control_tokens(self) -> dict[str, int]:
        """Return the control tokens by their text. It looks at every token: tenths of a second, so once."""
        if self._control_tokens is None:
            ids = (token for token in range(self.vocabulary_size) if self._model.is_control(token))
            self._control_tokens = {text: token for token in ids if (text := self._model.token_text(token))}
        return self._control_tokens

    # ---- computing

    def generate(
        self,
        tokens: Sequence[int],
        sampling: SamplingOptions | None = None,
        *,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
    ) -> Generation:
        """Continue a prompt until the model ends it, a stop string comes up, or there is no more room.

        The room is `max_tokens`, or what is left of the context.

        The prompt's ids are evaluated as they are: nothing is added. The stop string is not part of the reply.

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
        return Generation(self._steps(tuple(tokens), options, max_tokens, tuple(stop)))

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
        with self._new_context(most_outputs=rows) as context:
            parts = [context.logits(tokens[start : start + rows]) for start in range(0, len(tokens), rows)]
        return np.concatenate(parts)

    def _steps(
        self, prompt: tuple[int, ...], options: SamplingOptions, max_tokens: int | None, stop: tuple[str, ...]
    ) -> Generator[Piece, None, GenerationResult]:
        context, model = self._live_context(), self._model
        seed = secrets.randbelow(LARGEST_SEED + 1) if options.seed is None else options.seed
        stream = TextStream(stop)
        texts: list[str] = []
        generated = evaluated = 0
        reason = FinishReason.INTERRUPTED
        self._turn += 1
        turn = self._turn
        started = first = time.perf_counter()
        reused = self._reuse(prompt)
        sampler = _sampler(model, options, seed, prompt)
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
            sample, decode, bytes_of, feed = sampler.sample, context.decode_one, self._reply_bytes, stream.feed
            in_memory, full = self._in_memory, self.context_size
            while not self._interrupted:
                token = sample(context)
                if not generated:
                    first = time.perf_counter()
                data = bytes_of(token)
                if data is None:
                    reason = FinishReason.STOP
                    break
                generated += 1
                text = feed(data)
                texts.append(text)
                yield Piece(text, token)
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
                decode(token)
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
        )

    def _reuse(self, prompt: tuple[int, ...]) -> int:
        """Cut the memory back to what it shares with the prompt; return how many tokens that is.

        The last token of the prompt is always evaluated anew: its logits are needed.
        """
        context = self._live_context()
        used = context.used
        longest = min(len(prompt) - 1, len(self._in_memory), used)
        shared = next((at for at in range(longest) if prompt[at] != self._in_memory[at]), longest)
        # Behind an attention window the oldest tokens are gone; what the next one needs to see must still be there.
        window = self._model.sliding_window
        whole = context.first_position <= max(0, shared - window) if shared and window else True
        if not whole or (shared < used and not context.cut(shared)):
            context.clear()
            shared = 0
        del self._in_memory[shared:]
        return shared

    def _reply_bytes(self, token: int) -> bytes | None:
        """Return the bytes of a token, or None for one that ends the reply; remembered, for C calls take time."""
        try:
            return self._pieces[token]
        except KeyError:
            data = None if self._model.ends_generation(token) else self._model.token_bytes(token)
            self._pieces[token] = data
            return data

    def _check(self, tokens: Sequence[int]) -> native.Context:
        if not tokens:
            raise UsageError("there are no tokens to evaluate")
        if not 0 <= min(tokens) <= max(tokens) < self.vocabulary_size:
            raise UsageError(f"a token is outside the vocabulary of {self.vocabulary_size}")
        context = self._live_context()
        if len(tokens) > self.context_size:
            raise InputError(
                f"the prompt has {len(tokens)} tokens, but the context holds {self.context_size}",
                hint=f"-c {2 * len(tokens)} gives room for it and a reply",
            )
        return context

    def _live_context(self) -> native.Context:
        if self._context is None:
            raise UsageError("only the vocabulary of this model is loaded, or it was closed")
        return self._context

    @property
    def _wanted_context_size(self) -> int:
        trained = self._model.training_context
        if self.options.context_size is None:
            return min(trained, DEFAULT_CONTEXT_SIZE)
        return self.options.context_size or trained

    def _new_context(self, *, most_outputs: int) -> native.Context:
        if self._model.has_encoder or not self._model.has_decoder:
            raise GgufFileError(f"{self.path} is a model with an encoder: it cannot be used to generate text")
        options = self.options
        self._check_memory()
        threads = options.threads or cpu.usable_cores()
        return native.Context(
            self._model,
            size=self.context_size,
            threads=threads,
            threads_batch=options.threads_batch or threads,
            batch_size=options.batch_size,
            micro_batch_size=options.micro_batch_size,
            flash_attention=options.flash_attention,
            cache_type_k=options.cache_type_k,
            cache_type_v=options.cache_type_v,
            most_outputs=most_outputs,
            adapters=self._adapters,
        )

    def _check_memory(self) -> None:
        """Refuse a context that cannot fit: the system would grant the memory, and kill us when it is used."""
        options = self.options
        needed = cache_bytes(self._header, self.context_size, options.cache_type_k, options.cache_type_v)
        available = cpu.available_memory()
        if needed > available and not native.has_gpu():
            raise InputError(
                f"a context of {self.context_size} tokens takes {needed / 1e9:.1f} GB, "
                f"but {available / 1e9:.1f} GB of memory are free",
                hint=f"-c {max(256, self.context_size * available // needed // 2 // 256 * 256)} would fit",
            )


# The `gguf` package's Keys.General.SAMPLING_*; the converter writes them from generation_config.json.
_SAMPLING_KEYS: tuple[tuple[str, str, Any], ...] = (
    ("temperature", "general.sampling.temp", float),
    ("top_k", "general.sampling.top_k", int),
    ("top_p", "general.sampling.top_p", float),
    ("min_p", "general.sampling.min_p", float),
    ("repeat_penalty", "general.sampling.penalty_repeat", float),
    ("repeat_last_n", "general.sampling.penalty_last_n", int),
)


def _sampler(model: native.Model, options: SamplingOptions, seed: int, prompt: tuple[int, ...]) -> native.Sampler:
    sampler = native.Sampler(
        model,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        repeat_penalty=options.repeat_penalty,
        repeat_last_n=options.repeat_last_n,
        seed=seed,
    )
    for token in prompt[-options.repeat_last_n :] if options.repeat_last_n else ():
        sampler.accept(token)
    return sampler
