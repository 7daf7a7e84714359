"""The loaded libraries: started once, their log quoted in errors, libggml's functions for devices declared."""

import contextlib
import ctypes
import functools
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from ggufkit.llamacpp import binding

DEVICE_GPU, DEVICE_INTEGRATED_GPU = 1, 2  # ggml-backend.h, enum ggml_backend_dev_type

_POINTER, _TEXT, _SIZE = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {  # ggml-backend.h, ggml.h, llama.h; the binding declares none of these
    "ggml_backend_dev_count": (_SIZE, []),
    "ggml_backend_dev_get": (_POINTER, [_SIZE]),
    "ggml_backend_dev_type": (ctypes.c_int, [_POINTER]),
    "ggml_backend_dev_name": (_TEXT, [_POINTER]),
    "ggml_backend_dev_buffer_type": (_POINTER, [_POINTER]),
    "ggml_backend_buft_name": (_TEXT, [_POINTER]),
    "ggml_backend_reg_by_name": (_POINTER, [_TEXT]),
    "ggml_backend_reg_get_proc_address": (_POINTER, [_POINTER, _TEXT]),
    "ggml_backend_register": (None, [_POINTER]),
    "ggml_set_abort_callback": (_POINTER, [_POINTER]),
    "ggml_threadpool_params_init": (None, [_POINTER, ctypes.c_int]),
    "llama_attach_threadpool": (None, [_POINTER, _POINTER, _POINTER]),
}


@functools.cache
def library() -> Any:
    """Load and start libllama; every call returns the same module of declared functions.

    Raises:
        MissingDependencyError: there is no llama.cpp to load.
        LlamaCppError: it cannot be loaded.
    """
    lib: Any = binding.load()
    # When ggml aborts it starts a debugger to print our whole stack: noise that hides its own line.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    lib.llama_backend_init()
    return lib


@functools.cache
def ggml() -> Any:
    """Return libggml with its functions for devices declared."""
    loaded: Any = library().llama_cpp._lib  # noqa: SLF001 - the only handle on the loaded library and its dependencies
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


def devices() -> dict[str, Any]:
    """Return the handle of every device that the libraries see now (also those behind RPC), by its name."""
    functions = ggml()
    handles = [functions.ggml_backend_dev_get(index) for index in range(functions.ggml_backend_dev_count())]
    return {functions.ggml_backend_dev_name(handle).decode("utf-8", "replace"): handle for handle in handles}


def has_gpu() -> bool:
    """Tell whether the build sees a GPU (also one behind RPC) that can hold layers."""
    if not library().llama_supports_gpu_offload():
        return False
    return any(
        ggml().ggml_backend_dev_type(device) in {DEVICE_GPU, DEVICE_INTEGRATED_GPU} for device in devices().values()
    )


def log_excerpt(start: int, count: int = 3) -> str:
    """Quote what llama.cpp logged about a failure: its last lines about errors since line `start`, else its last."""
    lines = [line.strip() for line in binding.log_lines(start) if line.strip(" .\n")]
    telling = [line for line in lines if any(word in line.lower() for word in ("error", "fail", "assert", "unable"))]
    return "; ".join((telling or lines)[-count:]) or "it gave no reason"


@contextlib.contextmanager
def stderr_caught() -> Iterator[list[str]]:
    """Keep what C prints on descriptor 2 meanwhile; the yielded list holds its lines afterwards."""
    lines: list[str] = []
    if sys.stderr:
        sys.stderr.flush()
    ours = os.dup(2)
    try:
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 2)
            try:
                yield lines
            finally:
                os.dup2(ours, 2)
                file.seek(0)
                lines += file.read().decode("utf-8", "replace").splitlines()
    finally:
        os.close(ours)
