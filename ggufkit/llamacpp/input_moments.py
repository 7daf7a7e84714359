"""What goes into the matrices of a model: the sums of products of their inputs, taken while llama.cpp computes.

llama.cpp tells a callback of every operation before and after it is computed, as llama-imatrix uses it
(tools/imatrix/imatrix.cpp). Where an operation multiplies by a matrix that is wanted, its inputs X, float32
[n_tokens, n_in], are added up as X^T X, float64 [n_in, n_in]. Matrices that read the same inputs share one sum.
"""

import ctypes
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import LlamaCppError
from ggufkit.llamacpp import binding, native

_FLOAT32 = 0  # ggml.h: GGML_TYPE_F32
_MULTIPLICATION = b"MUL_MAT"
_LEAST_TOKENS = 2


class _Tensor(ctypes.Structure):
    """`struct ggml_tensor` of ggml.h (GGML_MAX_DIMS 4, GGML_MAX_OP_PARAMS 64, GGML_MAX_SRC 10, GGML_MAX_NAME 64)."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
    )


class InputMoments:
    """A model on the CPU that reads chunks and adds up the moments of the inputs of some of its matrices.

    Attributes:
        sums: X^T X of each group of matrices with the same inputs, float64 [n_in, n_in], by the first one's name.
        group_of: the name of the group of each matrix that was met.
        tokens: how many rows of inputs each group has seen.
    """

    def __init__(self, path: Path, wanted: Collection[str], *, length: int, threads: int) -> None:
        """Load a model to read chunks of `length` tokens; `wanted` are names of matrices.

        Raises:
            LlamaCppError: llama.cpp cannot load it, or has not enough memory.
            MissingDependencyError: llama.cpp or its binding is not installed.
        """
        self.sums: dict[str, NDArray[np.float64]] = {}
        self.group_of: dict[str, str] = {}
        self.tokens: dict[str, int] = {}
        self._wanted = {name.encode() for name in wanted}
        self._failure: BaseException | None = None
        self._met: dict[int, str] = {}  # the group whose inputs are at an address, in this batch
        self._counted: set[str] = set()
        self._context: Any = None
        self._model = native.Model(path, gpu_layers=0)
        self._library = self._model.lib
        ggml: Any = self._library.llama_cpp._lib  # noqa: SLF001 - the only handle on the loaded libraries
        self._operation = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_int)(("ggml_op_name", ggml))
        self._callback = self._library.llama_cpp.ggml_backend_sched_eval_callback(self._on_operation)
        settings = self._library.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = length
        settings.n_threads = settings.n_threads_batch = threads
        settings.op_offload = False
        settings.cb_eval = self._callback
        logged = binding.log_position()
        self._context = self._library.llama_init_from_model(self._model.handle, settings)
        if not self._context:
            self._model.close()
            raise LlamaCppError(f"llama.cpp cannot prepare {length} tokens: {native.log_excerpt(logged)}")

    def close(self) -> None:
        """Free all memory; a second call does nothing."""
        if self._context:
            self._library.llama_free(self._context)
            self._context = None
        self._model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, chunk: Sequence[int]) -> None:
        """Add the inputs of one chunk. Raises LlamaCppError."""
        self._met.clear()
        self._counted.clear()
        library = self._library
        library.llama_memory_clear(library.llama_get_memory(self._context), True)
        count = len(chunk)
        tokens = (library.llama_token * count)(*chunk)
        wanted = (ctypes.c_int8 * count)(*[1] * count)  # else the output layer would see the last token only
        batch = library.llama_batch_get_one(tokens, count)
        batch.logits = ctypes.cast(wanted, type(batch.logits))
        logged = binding.log_position()
        status = library.llama_decode(self._context, batch)
        if self._failure is not None:
            raise self._failure
        if status:
            raise LlamaCppError(f"llama.cpp failed to compute: {native.log_excerpt(logged)}")

    def _on_operation(self, address: int, ask: bool, _: object) -> bool:
        """Say whether an operation is of interest; when it was computed, take its inputs."""
        result = _Tensor.from_address(address)
        if self._operation(result.op) != _MULTIPLICATION or not result.src[0]:
            return not ask
        weight = _Tensor.from_address(result.src[0])
        if weight.name not in self._wanted:
            return not ask
        inputs = _Tensor.from_address(result.src[1])
        if inputs.type != _FLOAT32 or inputs.ne[2] * inputs.ne[3] != 1 or inputs.ne[1] < _LEAST_TOKENS:
            return not ask
        if not ask:
            try:
                self._add(weight.name.decode(), result.src[1], inputs)
            except BaseException as error:  # noqa: BLE001 - it cannot go through C
                self._failure = error
                return False
        return True

    def _add(self, name: str, address: int, inputs: _Tensor) -> None:
        group = self._met.get(address) if name not in self._counted else name
        if group is None:
            group = self.group_of.get(name, name)
            self._met[address] = group
            columns, rows, step = int(inputs.ne[0]), int(inputs.ne[1]), int(inputs.nb[1]) // 4
            flat = np.ctypeslib.as_array(ctypes.cast(inputs.data, ctypes.POINTER(ctypes.c_float)), (rows * step,))
            values = flat.reshape(rows, step)[:, :columns]
            if group not in self.sums:
                self.sums[group] = np.zeros((columns, columns))
                self.tokens[group] = 0
            self.sums[group] += values.T @ values
            self.tokens[group] += rows
        self._counted.add(name)
        self.group_of[name] = group


def moments_bytes(columns: Mapping[str, int]) -> int:
    """Return the memory that the sums of matrices with so many columns take at most."""
    return sum(8 * count * count for count in columns.values())
