"""Thin, typed handles on libllama: a model, a context, a sampler chain. They own C memory and know no policy."""

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ggufkit.errors import GgufFileError, LlamaCppError
from ggufkit.llamacpp import binding

if TYPE_CHECKING:
    import numpy as np

_UNKNOWN, _CONTROL, _STRIPS_LEFT, _STRIPS_RIGHT = 1 << 0, 1 << 3, 1 << 7, 1 << 8  # llama.h, enum llama_token_attr
_DEVICE_IS_GPU = {1, 2}  # ggml-backend.h, enum ggml_backend_dev_type: GPU and integrated GPU
_DECODE_NO_ROOM, _DECODE_ABORTED = 1, 2  # llama.h, return values of llama_decode
_ONLY_SEQUENCE = 0
_VOCABULARY_NONE = 0  # llama.h, enum llama_vocab_type
FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}  # llama.h, enum llama_flash_attn_type
CACHE_TYPES = {  # ggml.h, enum ggml_type: those that a key or value cache may have
    "f32": 0,
    "f16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q5_0": 6,
    "q5_1": 7,
    "q8_0": 8,
    "iq4_nl": 20,
    "bf16": 30,
}
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class AbortedError(Exception):
    """The computation was stopped because the caller asked for it; the context stays usable."""


class Model:
    """The weights and the vocabulary of a GGUF file, in memory."""

    def __init__(
        self,
        path: Path,
        *,
        gpu_layers: int = -1,
        vocabulary_only: bool = False,
        on_progress: Callable[[float], None] | None = None,
    ) -> None:
        """Load a file. `gpu_layers` < 0 means all; `on_progress` gets the loaded fraction, 0 to 1.

        Raises:
            GgufFileError: llama.cpp cannot load it; the message quotes its log.
            MissingDependencyError: there is no llama.cpp to load it with.
        """
        self.lib: Any = binding.load()
        _initialize(self.lib)
        self.handle: Any = None
        parameters = self.lib.llama_model_default_params()
        parameters.n_gpu_layers = gpu_layers
        parameters.vocab_only = vocabulary_only
        stopped = threading.Event()

        def report(fraction: float, _: Any) -> bool:
            if on_progress:
                on_progress(fraction)
            return not stopped.is_set()

        callback = self.lib.llama_progress_callback(report)
        parameters.progress_callback = callback
        logged = binding.log_position()
        try:
            with _signals_held(stopped.set):
                self.handle = self.lib.llama_model_load_from_file(os.fsencode(path), parameters)
        except BaseException:
            self.close()
            raise
        if not self.handle:
            raise GgufFileError(f"llama.cpp cannot load {path}: {log_excerpt(logged)}")
        self.vocabulary: Any = self.lib.llama_model_get_vocab(self.handle)
        self.vocabulary_size: int = self.lib.llama_vocab_n_tokens(self.vocabulary)
        # Of a file without a tokenizer, llama.cpp aborts when it is asked about the text of tokens.
        self.has_vocabulary: bool = self.lib.llama_vocab_type(self.vocabulary) != _VOCABULARY_NONE
        self._buffer = ctypes.create_string_buffer(256)

    def close(self) -> None:
        """Free the weights; every context made from them must have been closed before."""
        if self.handle:
            self.lib.llama_model_free(self.handle)
            self.handle = None

    def metadata(self, key: str) -> str | None:
        """Return the value of a scalar or string key as llama.cpp writes it as text; None when absent."""
        size = 256
        while True:
            buffer = ctypes.create_string_buffer(size)
            length: int = self.lib.llama_model_meta_val_str(self.handle, key.encode(), buffer, size)
            if length < 0:
                return None
            if length < size:
                return buffer.raw[:length].decode("utf-8", "replace")
            size = length + 1

    @property
    def description(self) -> str:
        """Describe the model in llama.cpp's words, such as `llama 8B Q4_K - Medium`."""
        buffer = ctypes.create_string_buffer(256)
        self.lib.llama_model_desc(self.handle, buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    @property
    def training_context(self) -> int:
        """Return how many tokens the model was trained to see at once."""
        return int(self.lib.llama_model_n_ctx_train(self.handle))

    @property
    def sliding_window(self) -> int:
        """Return the size of the attention window in tokens; 0 for a model that sees everything."""
        return int(self.lib.llama_model_n_swa(self.handle))

    @property
    def has_encoder(self) -> bool:
        """Tell whether an encoder must run before the decoder, as in T5."""
        return bool(self.lib.llama_model_has_encoder(self.handle))

    @property
    def has_decoder(self) -> bool:
        """Tell whether the model can generate text at all; embedding models cannot."""
        return bool(self.lib.llama_model_has_decoder(self.handle))

    @property
    def wants_bos(self) -> bool:
        """Tell whether the vocabulary asks for a beginning-of-sequence token at the front."""
        return bool(self.lib.llama_vocab_get_add_bos(self.vocabulary))

    @property
    def bos(self) -> int | None:
        """Return the id of the beginning-of-sequence token, if there is one."""
        return _token_or_none(self.lib.llama_vocab_bos(self.vocabulary))

    @property
    def eos(self) -> int | None:
        """Return the id of the end-of-sequence token, if there is one."""
        return _token_or_none(self.lib.llama_vocab_eos(self.vocabulary))

    def ends_generation(self, token: int) -> bool:
        """Tell whether the model says with this token that it has finished."""
        return self.has_vocabulary and bool(self.lib.llama_vocab_is_eog(self.vocabulary, token))

    def is_control(self, token: int) -> bool:
        """Tell whether a token is a control or unknown token: matched in text only when specials are parsed."""
        return bool(self._attributes(token) & (_UNKNOWN | _CONTROL))

    def strips_spaces(self, token: int) -> tuple[bool, bool]:
        """Tell whether a special token swallows the white space to its left, and to its right."""
        attributes = self._attributes(token)
        return bool(attributes & _STRIPS_LEFT), bool(attributes & _STRIPS_RIGHT)

    def _attributes(self, token: int) -> int:
        return int(self.lib.llama_vocab_get_attr(self.vocabulary, token)) if self.has_vocabulary else 0

    def token_text(self, token: int) -> str:
        """Return a token as the vocabulary spells it (`<|im_end|>`, `Ġthe`), not as it reads in a text."""
        text: bytes = self.lib.llama_vocab_get_text(self.vocabulary, token) if self.has_vocabulary else b""
        return text.decode("utf-8", "replace")

    def token_bytes(self, token: int, *, special: bool = False) -> bytes:
        """Return the bytes that a token stands for; control tokens are empty unless `special`."""
        if not self.has_vocabulary:
            return b""
        while True:
            size = len(self._buffer)
            length: int = self.lib.llama_token_to_piece(self.vocabulary, token, self._buffer, size, 0, special)
            if length >= 0:
                return self._buffer.raw[:length]
            self._buffer = ctypes.create_string_buffer(-length)

    def tokenize(self, text: bytes, *, add_special: bool, parse_special: bool) -> list[int]:
        """Split UTF-8 text into token ids; raises LlamaCppError when the text is too long for llama.cpp."""
        size = len(text) + 4
        for _ in range(2):
            tokens = (self.lib.llama_token * size)()
            count: int = self.lib.llama_tokenize(
                self.vocabulary, text, len(text), tokens, size, add_special, parse_special
            )
            if count >= 0:
                return list(tokens[:count])
            size = -count
        raise LlamaCppError(f"llama.cpp cannot tokenize a text of {len(text):,} bytes")


class Adapter:
    """A LoRA adapter, loaded for one model, whose memory it shares: it is freed with it."""

    def __init__(self, model: Model, path: Path) -> None:
        """Load a GGUF adapter.

        Raises:
            GgufFileError: llama.cpp cannot load it for this model; the message quotes its log.
        """
        logged = binding.log_position()
        self.handle: Any = model.lib.llama_adapter_lora_init(model.handle, os.fsencode(path))
        if not self.handle:
            raise GgufFileError(f"llama.cpp cannot load the adapter {path}: {log_excerpt(logged)}")


class Context:
    """The memory of one sequence of tokens (its keys and values), and the buffers to compute with."""

    def __init__(
        self,
        model: Model,
        *,
        size: int,
        threads: int,
        threads_batch: int,
        batch_size: int,
        micro_batch_size: int,
        flash_attention: str,
        cache_type_k: str,
        cache_type_v: str,
        most_outputs: int,
        adapters: Sequence[Adapter] = (),
    ) -> None:
        """Allocate for `size` tokens; `most_outputs` is the largest number of logit rows that one call will ask for.

        `flash_attention` is auto, on or off; the cache types are ggml's names in lower case. What the `adapters`
        change is added in full.

        Raises:
            LlamaCppError: out of memory, or options that do not go together; the message quotes llama.cpp's log.
        """
        self.lib = model.lib
        self.vocabulary_size = model.vocabulary_size
        self.batch_size = batch_size
        self.handle: Any = None
        parameters = self.lib.llama_context_default_params()
        parameters.n_ctx = size
        parameters.n_batch = batch_size
        parameters.n_ubatch = micro_batch_size
        parameters.n_seq_max = 1
        parameters.n_outputs_max = most_outputs
        parameters.n_outputs_max_per_seq = most_outputs
        parameters.n_threads = threads
        parameters.n_threads_batch = threads_batch
        parameters.flash_attn_type = FLASH_ATTENTION[flash_attention]
        parameters.type_k = CACHE_TYPES[cache_type_k]
        parameters.type_v = CACHE_TYPES[cache_type_v]
        parameters.no_perf = True
        logged = binding.log_position()
        self.handle = self.lib.llama_init_from_model(model.handle, parameters)
        if not self.handle:
            raise LlamaCppError(
                f"llama.cpp cannot prepare a context of {size} tokens: {log_excerpt(logged)}",
                hint="a smaller -c needs less memory",
            )
        if adapters:
            handles = (self.lib.llama_adapter_lora_p_ctypes * len(adapters))(
                *(ctypes.cast(adapter.handle, self.lib.llama_adapter_lora_p_ctypes) for adapter in adapters)
            )
            scales = (ctypes.c_float * len(adapters))(*[1.0] * len(adapters))
            if self.lib.llama_set_adapters_lora(self.handle, handles, len(adapters), scales):
                self.close()
                raise LlamaCppError(f"llama.cpp cannot use the adapter: {log_excerpt(logged)}")
        self._memory: Any = self.lib.llama_get_memory(self.handle)
        self._stop = threading.Event()
        self._abort = self.lib.ggml_abort_callback(lambda _: self._stop.is_set())
        self._no_abort = self.lib.ggml_abort_callback()
        self._one = (self.lib.llama_token * 1)()
        self._one_batch = self.lib.llama_batch_get_one(self._one, 1)

    def close(self) -> None:
        """Free the memory."""
        if self.handle:
            self.lib.llama_free(self.handle)
            self.handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def size(self) -> int:
        """Return how many tokens fit; llama.cpp may round what was asked for upwards."""
        return int(self.lib.llama_n_ctx(self.handle))

    @property
    def first_position(self) -> int:
        """Return the smallest position held; above 0 when an attention window has let the oldest ones go."""
        return int(self.lib.llama_memory_seq_pos_min(self._memory, _ONLY_SEQUENCE))

    @property
    def used(self) -> int:
        """Return the number of tokens that the sequence holds."""
        return int(self.lib.llama_memory_seq_pos_max(self._memory, _ONLY_SEQUENCE)) + 1

    def cut(self, position: int) -> bool:
        """Forget the tokens from a position on; False when this kind of memory cannot do that (recurrent models)."""
        return bool(self.lib.llama_memory_seq_rm(self._memory, _ONLY_SEQUENCE, position, -1))

    def clear(self) -> None:
        """Forget everything."""
        self.lib.llama_memory_clear(self._memory, True)

    def interrupt(self) -> None:
        """Stop `decode` as soon as possible, until `resume`; may be called from a thread or a signal handler."""
        self._stop.set()

    def resume(self) -> None:
        """Let `decode` run again."""
        self._stop.clear()

    def decode(self, tokens: Sequence[int]) -> None:
        """Append tokens to the sequence and compute the logits after the last one.

        Raises:
            AbortedError: `interrupt` was called meanwhile.
            LlamaCppError: llama.cpp failed.
        """
        with self._interruptible():
            for start in range(0, len(tokens), self.batch_size):
                part = tokens[start : start + self.batch_size]
                array = (self.lib.llama_token * len(part))(*part)
                self._run(self.lib.llama_batch_get_one(array, len(part)))

    def decode_one(self, token: int) -> None:
        """Append one token: the fast path, stopped only between calls. Raises LlamaCppError."""
        self._one[0] = token
        self._run(self._one_batch)

    def logits(self, tokens: Sequence[int]) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """Append at most `batch_size` tokens and return the logits after each, float32 [n_tokens, n_vocab]."""
        import numpy as np

        count = len(tokens)
        array = (self.lib.llama_token * count)(*tokens)
        wanted = (ctypes.c_int8 * count)(*[1] * count)
        batch = self.lib.llama_batch_get_one(array, count)
        batch.logits = ctypes.cast(wanted, type(batch.logits))
        with self._interruptible():
            self._run(batch)
        rows = self.lib.llama_get_logits(self.handle)
        return np.ctypeslib.as_array(rows, (count, self.vocabulary_size)).copy()

    def has_finite_logits(self) -> bool:
        """Tell whether the last logits are numbers: a sampler makes nonsense of NaN, or ends the process."""
        import numpy as np

        row = self.lib.llama_get_logits_ith(self.handle, -1)
        return bool(np.isfinite(np.ctypeslib.as_array(row, (self.vocabulary_size,)).sum(dtype=np.float64)))

    def _run(self, batch: Any) -> None:
        status: int = self.lib.llama_decode(self.handle, batch)
        if status == _DECODE_ABORTED:
            raise AbortedError
        if status == _DECODE_NO_ROOM:
            raise LlamaCppError("llama.cpp found no room left in the context", hint="a larger -c gives more room")
        if status != 0:
            raise LlamaCppError(f"llama.cpp failed to compute (llama_decode returned {status}): {log_excerpt(0)}")

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Let `interrupt` and signals stop a long batch.

        Only here, not for single tokens: C asks Python after every node of the graph, which costs about a
        millisecond per call of llama_decode.
        """
        self.lib.llama_set_abort_callback(self.handle, self._abort, None)
        try:
            with _signals_held(self._stop.set):
                yield
        finally:
            self.lib.llama_set_abort_callback(self.handle, self._no_abort, None)


class Sampler:
    """A chain of llama.cpp's samplers that turns logits into the next token, all in C."""

    def __init__(
        self,
        model: Model,
        *,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        repeat_penalty: float,
        repeat_last_n: int,
        seed: int,
    ) -> None:
        """Build the chain in the order of llama.cpp's own programs; temperature 0 always takes the likeliest token."""
        lib = self.lib = model.lib
        self.handle: Any = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        if repeat_penalty != 1.0 and repeat_last_n != 0:
            self._add(lib.llama_sampler_init_penalties(model.vocabulary_size, repeat_last_n, repeat_penalty, 0.0, 0.0))
        if temperature <= 0:
            self._add(lib.llama_sampler_init_greedy())
            return
        if top_k > 0:
            self._add(lib.llama_sampler_init_top_k(top_k))
        if top_p < 1:
            self._add(lib.llama_sampler_init_top_p(top_p, 1))
        if min_p > 0:
            self._add(lib.llama_sampler_init_min_p(min_p, 1))
        self._add(lib.llama_sampler_init_temp(temperature))
        self._add(lib.llama_sampler_init_dist(seed))

    def _add(self, sampler: Any) -> None:
        self.lib.llama_sampler_chain_add(self.handle, sampler)

    def accept(self, token: int) -> None:
        """Count a token of the prompt for the repeat penalty."""
        self.lib.llama_sampler_accept(self.handle, token)

    def sample(self, context: Context) -> int:
        """Choose the token after the last decoded one, and count it."""
        token: int = self.lib.llama_sampler_sample(self.handle, context.handle, -1)
        return token

    def close(self) -> None:
        """Free the chain."""
        if self.handle:
            self.lib.llama_sampler_free(self.handle)
            self.handle = None


def has_gpu() -> bool:
    """Tell whether the build sees a GPU (also one behind RPC) that can hold layers."""
    lib: Any = binding.load()
    _initialize(lib)
    if not lib.llama_supports_gpu_offload():
        return False
    # The binding does not declare these; the loaded library's dependencies hold them.
    ggml: Any = lib.llama_cpp._lib  # noqa: SLF001 - the only handle on the loaded library
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.argtypes, ggml.ggml_backend_dev_get.restype = [ctypes.c_size_t], ctypes.c_void_p
    ggml.ggml_backend_dev_type.argtypes, ggml.ggml_backend_dev_type.restype = [ctypes.c_void_p], ctypes.c_int
    devices = [ggml.ggml_backend_dev_get(index) for index in range(ggml.ggml_backend_dev_count())]
    return any(ggml.ggml_backend_dev_type(device) in _DEVICE_IS_GPU for device in devices)


def log_excerpt(start: int, count: int = 3) -> str:
    """Quote what llama.cpp logged about a failure: its last lines about errors since line `start`, else its last."""
    lines = [line.strip() for line in binding.log_lines(start) if line.strip(" .\n")]
    telling = [line for line in lines if any(word in line.lower() for word in ("error", "fail", "assert", "unable"))]
    return "; ".join((telling or lines)[-count:]) or "it gave no reason"


_initialized = False


def _initialize(lib: Any) -> None:
    global _initialized
    if not _initialized:
        # When ggml aborts it starts a debugger to print our whole stack: noise that hides its own line.
        os.environ.setdefault("GGML_NO_BACKTRACE", "1")
        lib.llama_backend_init()
        _initialized = True


def _token_or_none(token: int) -> int | None:
    return None if token < 0 else token


@contextlib.contextmanager
def _signals_held(stop: Callable[[], None]) -> Iterator[None]:
    """While C runs and calls back into Python, turn signals into `stop`; let their handlers run afterwards.

    A handler that raises inside a callback would be ignored: ctypes cannot pass exceptions through C.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[int, Callable[[int, Any], Any]] = {}
    caught: list[int] = []

    def hold(number: int, _: Any) -> None:
        caught.append(number)
        stop()

    for name in _STOP_SIGNALS:
        handler = signal.getsignal(name)
        if callable(handler):
            handlers[name] = handler
            signal.signal(name, hold)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in caught:
            handlers[number](number, None)
