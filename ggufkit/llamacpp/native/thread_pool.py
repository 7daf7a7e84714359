"""The threads that a context computes with, made once: without a pool ggml makes one for every token."""

import ctypes
from typing import Any

from ggufkit.llamacpp.native.library import ggml

_ROOM = 4096  # bytes; struct ggml_threadpool_params (ggml.h) takes 532 of them, ggml itself fills them in


class ThreadPools:
    """The pools of one context: for single tokens, and for batches where these have another number of threads."""

    def __init__(self, threads: int, threads_batch: int) -> None:
        """Start the threads; a build of llama.cpp without pools gets none and computes as it did."""
        self._free: Any = None
        self._pools: list[ctypes.c_void_p] = []
        registry = ggml().ggml_backend_reg_by_name(b"CPU")
        new, free = (_function(registry, name) for name in (b"ggml_threadpool_new", b"ggml_threadpool_free"))
        if not (new and free):
            return
        new.restype, self._free = ctypes.c_void_p, free
        for count in dict.fromkeys((threads, threads_batch)):
            parameters = ctypes.create_string_buffer(_ROOM)
            ggml().ggml_threadpool_params_init(parameters, count)
            if made := new(parameters):
                self._pools.append(ctypes.c_void_p(made))

    def attach(self, context: Any) -> None:
        """Let a context compute with them, until it is freed."""
        if self._pools:
            ggml().llama_attach_threadpool(ctypes.cast(context, ctypes.c_void_p), self._pools[0], self._pools[-1])

    def close(self) -> None:
        """End the threads; the context must have been freed before."""
        while self._pools:
            self._free(self._pools.pop())


def _function(registry: Any, name: bytes) -> Any:
    """Return a function of ggml's CPU backend, which need not be linked to what was loaded."""
    address = registry and ggml().ggml_backend_reg_get_proc_address(registry, name)
    return ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(address) if address else None
