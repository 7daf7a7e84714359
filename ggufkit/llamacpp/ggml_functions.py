"""The functions of libggml that describe and compute tensors, typed for ctypes; used in child processes only."""

import ctypes
from typing import Any

_CPU_DEVICE = 0  # ggml-backend.h, GGML_BACKEND_DEVICE_TYPE_CPU
_FLOAT32, _INT32 = 0, 26  # ggml.h, enum ggml_type
_IDS = 512  # any number of chosen experts will do for a question


class _InitParameters(ctypes.Structure):
    """`struct ggml_init_params` of ggml.h."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class _TensorStart(ctypes.Structure):
    """The first members of `struct ggml_tensor` of ggml.h."""

    _fields_ = (("type", ctypes.c_int), ("buffer", ctypes.c_void_p))


_P, _SIZE, _NUMBER, _KIND = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64, ctypes.c_int
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "ggml_backend_alloc_ctx_tensors": (_P, [_P, _P]),
    "ggml_backend_alloc_ctx_tensors_from_buft": (_P, [_P, _P]),
    "ggml_backend_buffer_free": (None, [_P]),
    "ggml_backend_buft_alloc_buffer": (_P, [_P, _SIZE]),
    "ggml_backend_dev_backend_reg": (_P, [_P]),
    "ggml_backend_dev_by_type": (_P, [_KIND]),
    "ggml_backend_dev_supports_op": (ctypes.c_bool, [_P, _P]),
    "ggml_backend_get_default_buffer_type": (_P, [_P]),
    "ggml_backend_graph_compute": (_KIND, [_P, _P]),
    "ggml_backend_init_by_type": (_P, [_KIND, ctypes.c_char_p]),
    "ggml_backend_reg_get_proc_address": (_P, [_P, ctypes.c_char_p]),
    "ggml_backend_tensor_set": (None, [_P, ctypes.c_char_p, _SIZE, _SIZE]),
    "ggml_build_forward_expand": (None, [_P, _P]),
    "ggml_free": (None, [_P]),
    "ggml_init": (_P, [_InitParameters]),
    "ggml_mul_mat": (_P, [_P, _P, _P]),
    "ggml_mul_mat_id": (_P, [_P, _P, _P, _P]),
    "ggml_nbytes": (_SIZE, [_P]),
    "ggml_new_graph": (_P, [_P]),
    "ggml_new_tensor_2d": (_P, [_P, _KIND, _NUMBER, _NUMBER]),
    "ggml_new_tensor_3d": (_P, [_P, _KIND, _NUMBER, _NUMBER, _NUMBER]),
}


def ggml_functions(module: Any) -> Any:
    """Return libggml as `binding.load_declarations` sees it, with its functions declared, which the binding lacks."""
    library = module._lib  # noqa: SLF001 - the only handle on the loaded libraries
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def new_context(ggml: Any, size: int) -> Any:
    """Make a context for descriptions of tensors that take `size` bytes together; no data is allocated."""
    return ggml.ggml_init(_InitParameters(size, None, True))


def repacked_buffer_type(ggml: Any, number: int, columns: int, rows: int, experts: int = 1) -> Any:
    """Return the buffer type in which the CPU keeps such weights in an order of its own; None where it does not.

    The CPU's extra buffer types are asked in their order, as llama.cpp does when it places a weight.
    """
    device = ggml.ggml_backend_dev_by_type(_CPU_DEVICE)
    address = ggml.ggml_backend_reg_get_proc_address(
        ggml.ggml_backend_dev_backend_reg(device), b"ggml_backend_dev_get_extra_bufts"
    )
    if not address:
        return None
    extra = ctypes.cast(ctypes.CFUNCTYPE(_P, _P)(address)(device), ctypes.POINTER(_P))
    context = new_context(ggml, 1 << 14)
    try:
        weight = ggml.ggml_new_tensor_3d(context, number, columns, rows, experts)
        product = _product(ggml, context, weight, columns, experts)
        index = 0
        while extra and (place := extra[index]):
            buffer = ggml.ggml_backend_buft_alloc_buffer(place, 0)
            ctypes.cast(weight, ctypes.POINTER(_TensorStart))[0].buffer = buffer
            supported = ggml.ggml_backend_dev_supports_op(device, product)
            ggml.ggml_backend_buffer_free(buffer)
            if supported:
                return place
            index += 1
    finally:
        ggml.ggml_free(context)
    return None


def _product(ggml: Any, context: Any, weight: Any, columns: int, experts: int) -> Any:
    """Describe a product with a weight; for stacked experts one that picks some of them."""
    if experts == 1:
        return ggml.ggml_mul_mat(context, weight, ggml.ggml_new_tensor_2d(context, _FLOAT32, columns, 1))
    inputs = ggml.ggml_new_tensor_3d(context, _FLOAT32, columns, 1, _IDS)
    return ggml.ggml_mul_mat_id(context, weight, inputs, ggml.ggml_new_tensor_2d(context, _INT32, 1, _IDS))
