"""From a tensor's bytes back to numbers, by libggml's own `to_float`: the very values that a model computes with."""

import ctypes
import functools
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, quants
from numpy.typing import NDArray

from ggufkit.llamacpp import ggml

Array = NDArray[Any]

_ToFloat = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
_PLAIN: dict[int, np.dtype[Any]] = {
    0: np.dtype("<f4"),
    28: np.dtype("<f8"),
}  # F32 and F64: libggml has no function that does nothing


class _TypeTraits(ctypes.Structure):
    """`struct ggml_type_traits` of ggml.h, as far as it is needed."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("block_size", ctypes.c_int64),
        ("interleaved_block_size", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.c_void_p),
        ("from_float_ref", ctypes.c_void_p),
    )


def dequantize(encoded: Array, tensor_type: int, elements: int) -> Array:
    """Decode whole blocks of a ggml type (`encoded`: uint8) to `elements` float32 values.

    By libggml where it is built, else by the `gguf` package, which knows fewer types.

    Raises:
        NotImplementedError: nothing here decodes this type.
    """
    if tensor_type in _PLAIN:
        plain: Array = encoded.view(_PLAIN[tensor_type])[:elements].astype(np.float32, copy=False)
        return plain
    library = ggml.load()
    if library is None:
        decoded: Array = quants.dequantize(encoded, GGMLQuantizationType(tensor_type))
        return decoded.reshape(-1)[:elements].astype(np.float32, copy=False)
    convert = _to_float(library.base, tensor_type)
    source = np.ascontiguousarray(encoded)
    target = np.empty(elements, np.float32)
    convert(source.ctypes.data, target.ctypes.data, elements)
    return target


@functools.cache
def _to_float(base: ctypes.CDLL, tensor_type: int) -> Any:
    # A prototype of our own: setting `restype` on the library's function would change it for others.
    prototype = ctypes.CFUNCTYPE(ctypes.POINTER(_TypeTraits), ctypes.c_int)
    traits = prototype(("ggml_get_type_traits", base))(tensor_type)
    if not traits or not traits.contents.to_float:
        raise NotImplementedError(f"libggml cannot decode type {tensor_type}")
    return _ToFloat(traits.contents.to_float)
