"""What goes into the matrices of a model, taken while llama.cpp computes.

llama.cpp tells a callback of every operation before and after it is computed, as llama-imatrix uses it
(tools/imatrix/imatrix.cpp). Where an operation multiplies by a matrix that is wanted, its inputs are looked at, float32
[n_tokens, n_in]. Of stacked experts each is a matrix of its own, whose inputs are those of the tokens sent to it.
"""

import ctypes
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import LlamaCppError
from ggufkit.llamacpp import binding, native

_FLOAT32 = 0  # ggml.h: GGML_TYPE_F32
_MULTIPLICATION, _BY_EXPERTS = b"MUL_MAT", b"MUL_MAT_ID"
_LEAST_TOKENS = 2
Place: TypeAlias = tuple[int, int | None]
"""Where inputs lie in memory, and which expert gets them."""

_EXPERT = re.compile(r"(.+)\[(\d+)\]")


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


def of_expert(name: str, expert: int) -> str:
    """Name one expert of a tensor."""
    return f"{name}[{expert}]"


def tensor_of(name: str) -> str:
    """Name the tensor of an expert; any other name is that of a tensor."""
    found = _EXPERT.fullmatch(name)
    return found[1] if found else name


def expert_of(name: str) -> int | None:
    """Return which expert of its tensor is named; None for a whole tensor."""
    found = _EXPERT.fullmatch(name)
    return int(found[2]) if found else None


class InputReader(ABC):
    """A model on the CPU that reads chunks, and hands over the inputs of some of its matrices."""

    def __init__(
        self, path: Path, wanted: Collection[str], *, length: int, threads: int, is_cut_short: bool = False
    ) -> None:
        """Load a model to read chunks of `length` tokens; `wanted` are names of matrices, or of experts of tensors.

        With `is_cut_short` a chunk is computed only as far as to the last of them.

        Raises:
            LlamaCppError: llama.cpp cannot load it, or has not enough memory.
            MissingDependencyError: llama.cpp or its binding is not installed.
        """
        self._wanted, self._experts = _sorted_out(wanted)
        self._is_cut_short = is_cut_short
        self._ahead: set[bytes] = set()  # tensors that this chunk has not come to
        self._scales: NDArray[np.float32] | None = None
        self._failure: BaseException | None = None
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

    def read(self, chunk: Sequence[int], scales: NDArray[np.float32] | None = None) -> None:
        """Read one chunk; each token's inputs are multiplied by one of the `scales`. Raises LlamaCppError."""
        library = self._library
        self._scales = scales
        self._ahead = {*self._wanted, *self._experts}
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

    def logits(self, count: int) -> NDArray[np.float32] | None:
        """Return what the last chunk of `count` tokens was answered, float32 [count, n_vocabulary]; None: nothing."""
        rows = self._library.llama_get_logits(self._context)
        return np.ctypeslib.as_array(rows, (count, self._model.vocabulary_size)) if rows else None

    @abstractmethod
    def take(self, name: str, place: "Place", inputs: Callable[[], NDArray[np.float32]]) -> None:
        """Take the `inputs`, [n_tokens, n_in], of a matrix; matrices with the same ones of a chunk tell one `place`."""

    def _on_operation(self, address: int, ask: bool, _: object) -> bool:
        """Say whether an operation is of interest; when it was computed, take its inputs."""
        result = _Tensor.from_address(address)
        operation = self._operation(result.op)
        if operation not in {_MULTIPLICATION, _BY_EXPERTS} or not result.src[0]:
            return not ask
        weight = _Tensor.from_address(result.src[0])
        by_experts = operation == _BY_EXPERTS
        if weight.name not in (self._experts if by_experts else self._wanted):
            return not ask
        inputs = _Tensor.from_address(result.src[1])
        rows, others = (inputs.ne[2], inputs.ne[3]) if by_experts else (inputs.ne[1], inputs.ne[2] * inputs.ne[3])
        if inputs.type != _FLOAT32 or others != 1 or rows < _LEAST_TOKENS:
            return not ask
        if not ask:
            try:
                if by_experts:
                    self._add_experts(weight.name, result.src[1], inputs, _Tensor.from_address(result.src[2]))
                else:
                    self.take(weight.name.decode(), (result.src[1], None), lambda: self._scaled(_rows(inputs)[0]))
            except BaseException as error:  # noqa: BLE001 - it cannot go through C
                self._failure = error
                return False
            self._ahead.discard(weight.name)
            return bool(self._ahead) or not self._is_cut_short
        return True

    def _add_experts(self, name: bytes, address: int, inputs: _Tensor, chosen: _Tensor) -> None:
        """Add the inputs of each expert: those of the tokens that `chosen`, int32 [n_tokens, n_used], sends to it."""
        values = _rows(inputs)  # [n_tokens, n_used or 1, n_in]
        experts = _view(chosen.data, ctypes.c_int32, (chosen.ne[1], chosen.ne[0]), (chosen.nb[1], chosen.nb[0]))
        for expert in self._experts[name]:
            token, place = np.nonzero(experts == expert)
            at = place if values.shape[1] > 1 else np.zeros_like(place)
            key = of_expert(name.decode(), expert)
            self.take(key, (address, expert), lambda token=token, at=at: self._scaled(values[token, at], token))  # type: ignore[misc]

    def _scaled(self, inputs: NDArray[np.float32], tokens: NDArray[np.intp] | None = None) -> NDArray[np.float32]:
        """Multiply inputs, [n_tokens, n_in], by the scales of these tokens of the chunk (None: all of it)."""
        scales = self._scales if self._scales is None or tokens is None else self._scales[tokens]
        if scales is None or len(scales) != len(inputs):
            return inputs
        scaled: NDArray[np.float32] = inputs * scales[:, None]
        return scaled


def _sorted_out(wanted: Collection[str]) -> tuple[set[bytes], dict[bytes, list[int]]]:
    """Tell whole matrices from experts, which are listed by their tensor."""
    whole: set[bytes] = set()
    experts: dict[bytes, list[int]] = {}
    for name in wanted:
        if found := _EXPERT.fullmatch(name):
            experts.setdefault(found[1].encode(), []).append(int(found[2]))
        else:
            whole.add(name.encode())
    return whole, experts


def _rows(inputs: _Tensor) -> NDArray[np.float32]:
    """Look at inputs where they are: [1, n_tokens, n_in], or for experts [n_tokens, n_used or 1, n_in]."""
    shape = (inputs.ne[2], inputs.ne[1], inputs.ne[0])
    found: NDArray[np.float32] = _view(inputs.data, ctypes.c_float, shape, (inputs.nb[2], inputs.nb[1], inputs.nb[0]))
    return found


def _view(address: int, kind: type[ctypes.c_float | ctypes.c_int32], shape: Sequence[int], steps: Sequence[int]) -> Any:
    """Look at elements in memory; `steps` are in bytes, the last axis changes fastest."""
    count = 1 + sum((extent - 1) * step for extent, step in zip(shape, steps, strict=True)) // ctypes.sizeof(kind)
    flat = np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(kind)), (count,))
    return np.lib.stride_tricks.as_strided(flat, tuple(shape), tuple(steps), writeable=False)
