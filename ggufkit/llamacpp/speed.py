"""How fast this machine multiplies a vector with weights of each type: what generating tokens consists of.

Measured with libggml's own kernels in a child process, once: `python -m ggufkit.llamacpp.speed THREADS TYPE...` writes
bytes per second as JSON. Two limits make the speed of a type: how fast memory brings weights, and how fast the kernel
takes them once they are in the cache. Many kernels of few bits are slower than memory.
"""

import ctypes
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ggufkit.errors import LlamaCppError
from ggufkit.llamacpp import binding, run
from ggufkit.llamacpp.ggml_functions import ggml_functions, new_context, repacked_buffer_type

_FLOAT32, _FLOAT16 = 0, 1  # ggml.h, enum ggml_type
_CPU_DEVICE = 0  # ggml-backend.h, GGML_BACKEND_DEVICE_TYPE_CPU
_COLUMNS = 4096
_ROWS_IN_CACHE = 512
_BYTES_BEYOND_CACHE = 192 << 20
_SECONDS_PER_TYPE = 0.012


@dataclass(frozen=True, slots=True)
class Speeds:
    """Bytes of weights per second: from memory, whatever the type, and by each type's kernel from the cache."""

    memory: float
    kernels: dict[int, float]


def measure(threads: int, types: Sequence[int]) -> Speeds:
    """Measure for about a second; `types` are ggml's numbers.

    Raises:
        LlamaCppError: the libraries failed.
        MissingDependencyError: there is no llama.cpp, or no binding.
    """
    # -P: the current folder may hold modules whose names hide the standard library's
    done = run.run([sys.executable, "-P", "-m", "ggufkit.llamacpp.speed", str(threads), *map(str, types)])
    try:
        answer = json.loads(done.stdout)
        return Speeds(float(answer["memory"]), {int(number): float(rate) for number, rate in answer["kernels"].items()})
    except (ValueError, KeyError):
        raise LlamaCppError(f"libggml gave no usable answer about its speed: {done.output}") from None


def _answer(threads: int, types: Sequence[int]) -> dict[str, Any]:
    ggml = ggml_functions(binding.load_declarations())
    backend = ggml.ggml_backend_init_by_type(_CPU_DEVICE, None)
    registry = ggml.ggml_backend_dev_backend_reg(ggml.ggml_backend_dev_by_type(_CPU_DEVICE))
    address = ggml.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_set_n_threads")
    set_threads = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)(address)
    # Threads that wait for each other measure the other programs on the machine, when their work is so short.
    set_threads(backend, 1)
    kernels = {number: threads * max(_rates(ggml, backend, number, _ROWS_IN_CACHE)) for number in types}
    set_threads(backend, threads)
    memory = max(_rates(ggml, backend, _FLOAT16, _BYTES_BEYOND_CACHE // 2 // _COLUMNS))
    return {"memory": memory, "kernels": kernels}


def _rates(ggml: Any, backend: Any, number: int, rows: int) -> Iterator[float]:
    """Multiply a vector with `rows` rows again and again; yield the bytes of weights per second of each time."""
    context = new_context(ggml, 1 << 20)
    inputs = new_context(ggml, 1 << 20)
    weight = ggml.ggml_new_tensor_2d(context, number, _COLUMNS, rows)
    vector = ggml.ggml_new_tensor_2d(inputs, _FLOAT32, _COLUMNS, 1)
    graph = ggml.ggml_new_graph(inputs)
    place = repacked_buffer_type(ggml, number, _COLUMNS, rows) or ggml.ggml_backend_get_default_buffer_type(backend)
    buffer = ggml.ggml_backend_alloc_ctx_tensors_from_buft(context, place)
    ggml.ggml_build_forward_expand(graph, ggml.ggml_mul_mat(inputs, weight, vector))
    others = ggml.ggml_backend_alloc_ctx_tensors(inputs, backend)
    size = ggml.ggml_nbytes(weight)
    # Written, not only reserved: pages that nobody wrote to are one page of zeros, which stays in the cache.
    ggml.ggml_backend_tensor_set(weight, bytes(size), 0, size)
    ggml.ggml_backend_tensor_set(vector, bytes(4 * _COLUMNS), 0, 4 * _COLUMNS)
    ended = time.perf_counter() + max(_SECONDS_PER_TYPE, size / 4e8)
    for count in range(1000):
        started = time.perf_counter()
        if ggml.ggml_backend_graph_compute(backend, graph):
            raise SystemExit("ggml_backend_graph_compute failed")
        now = time.perf_counter()
        if count:  # the first time everything is still cold
            yield size / (now - started)
        if now > ended and count:
            break
    for made, free in (
        (buffer, ggml.ggml_backend_buffer_free),
        (others, ggml.ggml_backend_buffer_free),
        (context, ggml.ggml_free),
        (inputs, ggml.ggml_free),
    ):
        free(made)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_answer(int(sys.argv[1]), [int(number) for number in sys.argv[2:]])))
