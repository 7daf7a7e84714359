"""A model in memory: what it is, its tokens and their text, and what it takes to make contexts for it."""

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Self

from ggufkit.errors import GgufFileError, InputError, UsageError
from ggufkit.inference import placement
from ggufkit.inference.attention import Attention, attention
from ggufkit.inference.model_file import check_adapters, check_memory, check_model_file
from ggufkit.inference.options import DEFAULT_CONTEXT_SIZE, EngineOptions, SamplingOptions
from ggufkit.inference.sampling_defaults import sampling_asked_for
from ggufkit.llamacpp import cpu, load_check, native
from ggufkit.progress import Progress, silent


class LoadedModel:
    """The weights and the vocabulary of a file; nothing is computed with them here."""

    def __init__(self, path: Path, options: EngineOptions, progress: Progress) -> None:
        started = time.perf_counter()
        self._header = check_model_file(path)
        check_adapters(self._header, options.adapters)
        load_check.check_survivable(path)
        self.path = path
        self.placement = placement.resolve(path, self._header, options)
        self.options = options = self.placement.options
        self._pieces: dict[int, bytes | None] = {}
        self._whole_texts: dict[int, str] = {}  # of those among them that are whole characters
        self._control_tokens: dict[str, int] | None = None
        self._endings: tuple[int, ...] | None = None
        self._model = native.Model(
            path,
            placement=_placement(options),
            load_mode=options.load_mode,
            repack=options.repack,
            vocabulary_only=options.vocabulary_only,
            on_progress=lambda fraction: progress("Loading", int(fraction * 1000), 1000, "steps"),
        )
        try:
            self._adapters = [native.Adapter(self._model, each.path, each.scale) for each in options.adapters]
            self._prepare()
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
            UsageError: the options name devices or buffer types that are not there, or adapters do not fit the model.
            LlamaCppError: not enough memory for the context.
            MissingDependencyError: llama.cpp is not installed.
        """
        return cls(Path(path), options or EngineOptions(), progress)

    def close(self) -> None:
        """Free all memory; a second call does nothing."""
        self._model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # ---- what the model is

    @property
    def context_size(self) -> int:
        """Return how many tokens prompt and reply may fill together."""
        trained = self.training_context
        if self.options.context_size is None:
            return min(trained, DEFAULT_CONTEXT_SIZE)
        return self.options.context_size or trained

    @property
    def training_context(self) -> int:
        """Return how many tokens the model was trained to see at once."""
        told = self._header.metadata.get(f"{self._header.metadata.get('general.architecture')}.context_length")
        # llama.cpp does not know when it has loaded the vocabulary only.
        return self._model.training_context or (told if isinstance(told, int) else 0)

    @property
    def description(self) -> str:
        """Describe the model in llama.cpp's words, such as `llama 8B Q4_K - Medium`."""
        return self._model.description

    @property
    def vocabulary_size(self) -> int:
        """Return the number of tokens."""
        return self._model.vocabulary_size

    @property
    def cannot_go_back(self) -> bool:
        """Tell whether the model keeps a state instead of its past, so that it cannot forget only the last tokens."""
        return self._model.keeps_state

    @property
    def bos(self) -> int | None:
        """Return the id of the beginning-of-sequence token."""
        return self._model.vocabulary.bos

    @property
    def eos(self) -> int | None:
        """Return the id of the end-of-sequence token."""
        return self._model.vocabulary.eos

    @property
    def wants_bos(self) -> bool:
        """Tell whether every prompt should begin with the beginning-of-sequence token."""
        return self._model.vocabulary.wants_bos

    def metadata(self, key: str) -> str | None:
        """Return the value of a scalar or string key of the file as text; None when absent."""
        return self._model.metadata(key)

    def sampling_defaults(self) -> SamplingOptions:
        """Return llama.cpp's defaults with what the model's file asks for (`general.sampling.*`) laid over them.

        A value in the file that makes no sense is passed over.
        """
        return sampling_asked_for(self.metadata)

    def check_grammar(self, options: SamplingOptions) -> None:
        """Have llama.cpp read the grammar, if there is one. Raises InputError when it is not valid."""
        if options.grammar is not None:
            self._sampler(options, 0, ()).close()

    # ---- tokens and text

    def tokenize(self, text: str, *, parse_special: bool = False, add_special: bool = False) -> list[int]:
        """Split text into token ids.

        `parse_special` makes tokens such as `<|im_end|>` of their spelling; `add_special` adds BOS or EOS as the model
        wants them. Lone surrogates become U+FFFD.

        Raises:
            GgufFileError: the file holds no vocabulary.
        """
        if not self._model.vocabulary.has_text:
            raise GgufFileError(f"{self.path} holds no vocabulary, so no text can be given to it")
        data = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").encode()
        return self._model.vocabulary.tokenize(data, add_special=add_special, parse_special=parse_special)

    def token_bytes(self, token: int, *, special: bool = False) -> bytes:
        """Return the bytes that a token stands for in a text; control tokens are empty unless `special`.

        Raises:
            UsageError: the vocabulary has no such token.
        """
        if not 0 <= token < self.vocabulary_size:
            raise UsageError(f"token {token} is outside the vocabulary of {self.vocabulary_size}")
        return self._model.vocabulary.token_bytes(token, special=special)

    def text_of(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Return the text of tokens; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(self.token_bytes(token, special=special) for token in tokens).decode("utf-8", "replace")

    def token_text(self, token: int) -> str:
        """Return a token as the vocabulary spells it, such as `<|im_end|>` or `Ġthe`."""
        return self._model.vocabulary.token_text(token)

    def is_control(self, token: int) -> bool:
        """Tell whether only a template may write this token, such as `<|im_start|>`."""
        return self._model.vocabulary.is_control(token)

    def ends(self, token: int) -> bool:
        """Tell whether a reply ends with this token."""
        return self._model.vocabulary.ends_generation(token)

    def strips_spaces(self, token: int) -> tuple[bool, bool]:
        """Tell whether a special token swallows the white space to its left, and to its right."""
        return self._model.vocabulary.strips_spaces(token)

    def control_tokens(self) -> dict[str, int]:
        """Return the control tokens by their text. It looks at every token: tenths of a second, so once."""
        if self._control_tokens is None:
            ids = (token for token in range(self.vocabulary_size) if self._model.vocabulary.is_control(token))
            self._control_tokens = {text: token for token in ids if (text := self._model.vocabulary.token_text(token))}
        return self._control_tokens

    # ---- for those who compute

    def _prepare(self) -> None:
        """Make what computing needs, at the end of loading."""

    def _reply_bytes(self, token: int) -> bytes | None:
        """Return the bytes of a token, or None for one that ends the reply; remembered, for C calls take time."""
        try:
            return self._pieces[token]
        except KeyError:
            vocabulary = self._model.vocabulary
            data = None if vocabulary.ends_generation(token) else vocabulary.token_bytes(token)
            self._pieces[token] = data
            with contextlib.suppress(UnicodeDecodeError):
                if data is not None:
                    self._whole_texts[token] = data.decode()
            return data

    def _sampler(self, options: SamplingOptions, seed: int, prompt: Sequence[int]) -> native.Sampler:
        values = {option.name: getattr(options, option.name) for option in fields(options)} | {"seed": seed}
        if values.pop("ignore_eos"):
            values["logit_bias"] += tuple((token, -math.inf) for token in self._ending_tokens())
        sampler = native.Sampler(self._model, native.SamplerSettings(**values))
        longest = max(options.repeat_last_n, options.dry_penalty_last_n if options.dry_multiplier else 0)
        if longest and sampler.looks_back:
            sampler.accept(prompt[-longest:])
        return sampler

    def _ending_tokens(self) -> tuple[int, ...]:
        if self._endings is None:
            ends = self._model.vocabulary.ends_generation
            self._endings = tuple(token for token in range(self.vocabulary_size) if ends(token))
        return self._endings

    def _check_tokens(self, tokens: Sequence[int]) -> None:
        if not tokens:
            raise UsageError("there are no tokens to evaluate")
        if not 0 <= min(tokens) <= max(tokens) < self.vocabulary_size:
            raise UsageError(f"a token is outside the vocabulary of {self.vocabulary_size}")
        if len(tokens) > self.context_size:
            raise InputError(
                f"the prompt has {len(tokens)} tokens, but the context holds {self.context_size}",
                hint=f"-c {2 * len(tokens)} gives room for it and a reply",
            )

    def _new_context(
        self,
        *,
        most_outputs: int,
        size: int | None = None,
        sequences: int = 1,
        batch_size: int | None = None,
        threads: int | None = None,
        chosen: Attention | None = None,
    ) -> native.Context:
        """Make a context of `size` tokens (None: `context_size`), which the `sequences` share.

        `batch_size` tokens are handed over in one call, and `threads` compute (None: as the options say). How attention
        is `chosen` comes before the options.

        Raises:
            GgufFileError: the model cannot continue a text.
            InputError: there is not enough memory.
            LlamaCppError: llama.cpp cannot make it.
        """
        if self._model.has_encoder or not self._model.has_decoder:
            raise GgufFileError(f"{self.path} is a model with an encoder: it cannot be used to generate text")
        if self._model.diffuses:
            raise GgufFileError(f"{self.path} is a diffusion model: it does not continue a text token by token")
        options, size = self.options, size or self.context_size
        if not native.has_gpu():
            check_memory(self._header, size, options.cache_type_k, options.cache_type_v)
        usual = options.threads or cpu.usable_cores()
        return native.Context(
            self._model,
            size=size,
            threads=threads or usual,
            threads_batch=threads or options.threads_batch or usual,
            batch_size=batch_size or options.batch_size,
            micro_batch_size=chosen.micro_batch_size if chosen else options.micro_batch_size,
            flash_attention=chosen.flash if chosen else options.flash_attention,
            cache_type_k=options.cache_type_k,
            cache_type_v=options.cache_type_v,
            most_outputs=most_outputs,
            sequences=sequences,
            full_window_cache=options.full_window_cache,
            offload_cache=options.offload_cache,
            offload_operations=options.offload_operations,
            adapters=self._adapters,
        )

    def _attention(self, size: int | None = None) -> Attention:
        """Choose how a context of so many tokens for each sequence (None: `context_size`) computes attention."""
        return attention(self.options, self._header, size or self.context_size, on_cpu=self.placement.on_cpu)


def _placement(options: EngineOptions) -> native.Placement:
    return native.Placement(
        gpu_layers=options.gpu_layers if isinstance(options.gpu_layers, int) else -1,
        split_mode=options.split_mode,
        main_gpu=options.main_gpu,
        tensor_split=options.tensor_split,
        tensor_overrides=tuple((override.pattern, override.buffer_type) for override in options.tensor_overrides),
        devices=options.devices,
        rpc_servers=options.rpc_servers,
    )
