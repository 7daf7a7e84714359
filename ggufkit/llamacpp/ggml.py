"""Element types by libggml itself: conversions and quantization of rows, several times as fast as numpy, same bits.

ctypes releases the GIL during a call, so threads that convert different pieces run side by side.
"""

import ctypes
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import MissingDependencyError
from ggufkit.llamacpp.find import find

# Enough for the conversions' overhead to vanish, small enough for both buffers to stay in a core's L2 cache.
_ELEMENTS_AT_ONCE = 32 * 1024

# Encoders that search in grids (ggml-quants.c, quantize_row_iq*_impl): their sums overflow, and an assertion ends the
# process. No scale, a float16, can hold such weights anyway. By the numbers of ggml.h: IQ2_XXS, IQ2_XS, IQ3_XXS, IQ1_S,
# IQ3_S, IQ2_S, IQ1_M.
_SEARCHES = {16, 17, 18, 19, 21, 22, 29}
_TOO_LARGE = 1e9

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Ggml:
    """The two libraries that hold what we call."""

    base: ctypes.CDLL
    cpu: ctypes.CDLL

    def to_float32(self, source: Array, kind: str, target: Array) -> None:
        """Convert `source` (uint16 holding "F16" or "BF16") into `target` (float32, as many elements)."""
        convert = self.cpu.ggml_cpu_bf16_to_fp32 if kind == "BF16" else self.cpu.ggml_cpu_fp16_to_fp32
        convert(_pointer(source), _pointer(target), ctypes.c_int64(source.size))

    def from_float32(self, source: Array, kind: str, target: Array) -> None:
        """Convert float32 `source` into `target` (uint16 to hold "F16" or "BF16"), rounding to nearest even."""
        convert = self.cpu.ggml_cpu_fp32_to_bf16 if kind == "BF16" else self.cpu.ggml_cpu_fp32_to_fp16
        convert(_pointer(source), _pointer(target), ctypes.c_int64(source.size))

    def between_halves(self, source: Array, source_kind: str, target_kind: str, target: Array) -> None:
        """Convert between "F16" and "BF16" (both in uint16) by way of float32, in pieces that stay in the cache."""
        scratch = np.empty(min(source.size, _ELEMENTS_AT_ONCE), np.float32)
        for start in range(0, source.size, _ELEMENTS_AT_ONCE):
            piece = source[start : start + _ELEMENTS_AT_ONCE]
            self.to_float32(piece, source_kind, scratch[: piece.size])
            self.from_float32(scratch[: piece.size], target_kind, target[start : start + piece.size])

    def quantize(
        self, source: Array, tensor_type: int, columns: int, target: Array, importance: Array | None = None
    ) -> None:
        """Quantize float32 rows of `columns` elements into `target` (uint8), byte for byte as llama-quantize does.

        `importance` holds one float32 for each column. A type that needs it ends the process without. Weights beyond
        what a type can hold become blocks that are not valid; see `is_valid`.
        """
        if tensor_type in _SEARCHES and not np.abs(source).max(initial=0.0) < _TOO_LARGE:
            target.fill(0xFF)  # scales that are not finite
            return
        self.base.ggml_quantize_chunk(
            ctypes.c_int(tensor_type),
            _pointer(source),
            _pointer(target),
            ctypes.c_int64(0),
            ctypes.c_int64(source.size // columns),
            ctypes.c_int64(columns),
            None if importance is None else _pointer(importance),
        )

    def is_valid(self, encoded: Array, tensor_type: int) -> bool:
        """Whether whole rows of a type hold only finite elements, or blocks whose scales are finite."""
        return bool(
            self.base.ggml_validate_row_data(
                ctypes.c_int(tensor_type), _pointer(encoded), ctypes.c_size_t(encoded.nbytes)
            )
        )


@functools.cache
def load() -> Ggml | None:
    """Load libggml from the build that `find` finds; None when there is none: callers then do with numpy."""
    try:
        build = find()
        base = ctypes.CDLL(str(build.library("ggml-base")))
        cpu = ctypes.CDLL(str(build.library("ggml-cpu")))
        cpu.ggml_cpu_init()
        base.ggml_quantize_chunk.restype = ctypes.c_size_t
        base.ggml_validate_row_data.restype = ctypes.c_bool
    except (MissingDependencyError, OSError, AttributeError):  # not built, or built with loadable backends
        return None
    return Ggml(base, cpu)


def _pointer(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
