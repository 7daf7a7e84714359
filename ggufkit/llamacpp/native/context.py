"""The memory of sequences of tokens (their keys and values), and the buffers to compute with."""

import contextlib
import ctypes
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from ggufkit.errors import LlamaCppError
from ggufkit.llamacpp import binding
from ggufkit.llamacpp.native.library import log_excerpt
from ggufkit.llamacpp.native.model import Adapter, Model
from ggufkit.llamacpp.native.signals import signals_held
from ggufkit.llamacpp.native.stop_flag import StopFlag
from ggufkit.llamacpp.native.thread_pool import ThreadPools

if TYPE_CHECKING:
    import numpy as np

    from ggufkit.llamacpp.native.batch import SequenceBatch

_DECODE_NO_ROOM, _DECODE_ABORTED = 1, 2  # llama.h, return values of llama_decode
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


class AbortedError(Exception):
    """The computation was stopped because the caller asked for it; the context stays usable."""


class Context:
    """The memory of one sequence of tokens, or of several side by side, and the buffers to compute with."""

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
        sequences: int = 1,
        shared_memory: bool = False,
        full_window_cache: bool = False,
        offload_cache: bool = True,
        offload_operations: bool = True,
        adapters: Sequence[Adapter] = (),
    ) -> None:
        """Allocate for `size` tokens; `most_outputs` is the largest number of logit rows that one call will ask for.

        `flash_attention` is auto, on or off; the cache types are ggml's names in lower case. What the `adapters`
        change is added, times their scales. Each of the `sequences` gets an equal part of `size`, or all of them
        take from one `shared_memory`. With `full_window_cache` layers that see a window only keep everything.

        Raises:
            LlamaCppError: out of memory, or options that do not go together; the message quotes llama.cpp's log.
        """
        self.lib = model.lib
        self.vocabulary_size = model.vocabulary_size
        self.batch_size = batch_size
        self.handle: Any = None
        self._pools: ThreadPools | None = None
        parameters = self.lib.llama_context_default_params()
        parameters.n_ctx = size
        parameters.n_batch = batch_size
        parameters.n_ubatch = micro_batch_size
        parameters.n_seq_max = sequences
        parameters.n_outputs_max = most_outputs
        parameters.n_outputs_max_per_seq = most_outputs
        parameters.n_threads = threads
        parameters.n_threads_batch = threads_batch
        parameters.flash_attn_type = FLASH_ATTENTION[flash_attention]
        parameters.type_k = CACHE_TYPES[cache_type_k]
        parameters.type_v = CACHE_TYPES[cache_type_v]
        parameters.offload_kqv = offload_cache
        parameters.op_offload = offload_operations
        parameters.swa_full = full_window_cache
        parameters.kv_unified = shared_memory
        parameters.no_perf = True
        logged = binding.log_position()
        try:
            with signals_held(lambda: None):  # what it logs comes through Python, where a signal would get lost
                self.handle = self.lib.llama_init_from_model(model.handle, parameters)
        except BaseException:
            self.close()
            raise
        if not self.handle:
            raise LlamaCppError(
                f"llama.cpp cannot prepare a context of {size} tokens: {log_excerpt(logged)}",
                hint=(
                    "-fa auto, or -ctv f16"
                    if flash_attention == "off" and cache_type_v not in {"f32", "f16", "bf16"}
                    else "a smaller -c needs less memory"
                ),
            )
        self._pools = ThreadPools(threads, threads_batch)
        self._pools.attach(self.handle)
        if adapters:
            handles = (self.lib.llama_adapter_lora_p_ctypes * len(adapters))(
                *(ctypes.cast(adapter.handle, self.lib.llama_adapter_lora_p_ctypes) for adapter in adapters)
            )
            scales = (ctypes.c_float * len(adapters))(*(adapter.scale for adapter in adapters))
            if self.lib.llama_set_adapters_lora(self.handle, handles, len(adapters), scales):
                self.close()
                raise LlamaCppError(f"llama.cpp cannot use the adapter: {log_excerpt(logged)}")
        self._decode: Any = self.lib.llama_decode
        self._memory: Any = self.lib.llama_get_memory(self.handle)
        self._stop = StopFlag(self.lib)
        self._no_abort = self.lib.ggml_abort_callback()
        # Declared once more, for an address is what the views below are remembered by.
        self._logits_at = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)(
            ("llama_get_logits_ith", self.lib.llama_cpp._lib)  # noqa: SLF001 - the only handle on the loaded library
        )
        self._views: dict[int, np.ndarray[Any, np.dtype[np.float32]]] = {}
        self._one = (self.lib.llama_token * 1)()
        self._one_batch = self.lib.llama_batch_get_one(self._one, 1)

    def close(self) -> None:
        """Free the memory, and end the threads."""
        if self.handle:
            self.lib.llama_free(self.handle)
            self.handle = None
        if self._pools:
            self._pools.close()
            self._pools = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # ---- what is held

    @property
    def size(self) -> int:
        """Return how many tokens fit; llama.cpp may round what was asked for upwards."""
        return int(self.lib.llama_n_ctx(self.handle))

    def first_position(self, sequence: int = 0) -> int:
        """Return the smallest position held; above 0 when an attention window has let the oldest ones go."""
        return int(self.lib.llama_memory_seq_pos_min(self._memory, sequence))

    def used(self, sequence: int = 0) -> int:
        """Return the number of tokens that a sequence holds."""
        return int(self.lib.llama_memory_seq_pos_max(self._memory, sequence)) + 1

    def cut(self, position: int, sequence: int = 0) -> bool:
        """Forget the tokens from a position on; False when this kind of memory cannot do that (recurrent models)."""
        return bool(self.lib.llama_memory_seq_rm(self._memory, sequence, position, -1))

    def copy(self, source: int, target: int) -> None:
        """Let a sequence, which holds nothing, begin with all that another one holds."""
        self.lib.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def clear(self) -> None:
        """Forget everything."""
        self.lib.llama_memory_clear(self._memory, True)

    # ---- computing

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
        if status := self._decode(self.handle, self._one_batch):
            self._fail(status)

    def decode_many(self, batch: "SequenceBatch") -> None:
        """Append tokens to several sequences and compute the logits that are wanted.

        Raises:
            AbortedError: `interrupt` was called meanwhile.
            LlamaCppError: llama.cpp failed.
        """
        with self._interruptible():
            self._run(batch.handle)

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

    def all_logits(self, count: int) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """Return the logits that the last batch asked for, float32 [count, n_vocab]; valid until the next."""
        import numpy as np

        return np.ctypeslib.as_array(self.lib.llama_get_logits(self.handle), (count, self.vocabulary_size))

    def decode_rows(self, tokens: Sequence[int]) -> None:
        """Append at most `batch_size` tokens and compute the logits after each. Raises LlamaCppError."""
        count = len(tokens)
        array = (self.lib.llama_token * count)(*tokens)
        wanted = (ctypes.c_int8 * count)(*[1] * count)
        batch = self.lib.llama_batch_get_one(array, count)
        batch.logits = ctypes.cast(wanted, type(batch.logits))
        self._run(batch)

    def last_logits(self, row: int = -1) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """Return the logits at one place of the last batch (-1: its last), float32 [n_vocab]; valid until the next."""
        import numpy as np

        return np.ctypeslib.as_array(self.lib.llama_get_logits_ith(self.handle, row), (self.vocabulary_size,))

    def likeliest(self, row: int = -1) -> int:
        """Return the token with the largest logit at one place of the last batch (-1: its last), the first of equals.

        Raises:
            LlamaCppError: the largest is not a number.
        """
        address = self._logits_at(self.handle, row) or 0
        view = self._views.get(address)
        if view is None:
            self._views[address] = view = self.last_logits(row)
        token = int(view.argmax())
        if view[token] != view[token]:
            raise LlamaCppError("the model computes values that are not numbers")
        return token

    def has_finite_logits(self, row: int = -1) -> bool:
        """Tell whether logits are numbers: a sampler makes nonsense of NaN, or ends the process."""
        import numpy as np

        return bool(np.isfinite(self.last_logits(row).sum(dtype=np.float64)))

    def _run(self, batch: Any) -> None:
        if status := self._decode(self.handle, batch):
            self._fail(status)

    def _fail(self, status: int) -> NoReturn:
        if status == _DECODE_ABORTED:
            raise AbortedError
        if status == _DECODE_NO_ROOM:
            raise LlamaCppError("llama.cpp found no room left in the context", hint="a larger -c gives more room")
        raise LlamaCppError(f"llama.cpp failed to compute (llama_decode returned {status}): {log_excerpt(0)}")

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Let `interrupt` and signals stop a long batch; single tokens are computed to their end."""
        self.lib.llama_set_abort_callback(self.handle, self._stop.callback, self._stop.data)
        try:
            with signals_held(self._stop.set):
                yield
        finally:
            self.lib.llama_set_abort_callback(self.handle, self._no_abort, None)
