"""What `load_check` runs in a process of its own: `python _load_child.py LIBLLAMA MODEL`; status 3 means refused."""

import ctypes
import os
import sys

_REFUSED = 3
_MODE_NONE = 0  # llama.h, enum llama_load_mode


class _Parameters(ctypes.Structure):
    """`struct llama_model_params` of the pinned llama.h."""

    _fields_ = (
        ("devices", ctypes.c_void_p),
        ("tensor_buft_overrides", ctypes.c_void_p),
        ("n_gpu_layers", ctypes.c_int32),
        ("split_mode", ctypes.c_int),
        ("load_mode", ctypes.c_int),
        ("lazy_mode", ctypes.c_int),
        ("main_gpu", ctypes.c_int32),
        ("tensor_split", ctypes.c_void_p),
        ("progress_callback", ctypes.c_void_p),
        ("progress_callback_user_data", ctypes.c_void_p),
        ("kv_overrides", ctypes.c_void_p),
        ("vocab_only", ctypes.c_bool),
        ("check_tensors", ctypes.c_bool),
        ("use_extra_bufts", ctypes.c_bool),
        ("no_host", ctypes.c_bool),
        ("no_alloc", ctypes.c_bool),
        ("load_mtp", ctypes.c_bool),
        # A build of another version may return a larger structure: it must not write beyond ours.
        ("room", ctypes.c_char * 256),
    )


def main(library: str, model: str) -> int:
    """Load a model without its weights; 0 where that works, or where this build's parameters are not the pinned."""
    llama = ctypes.CDLL(library)
    llama.llama_model_default_params.restype = _Parameters
    llama.llama_model_load_from_file.restype = ctypes.c_void_p
    llama.llama_model_load_from_file.argtypes = [ctypes.c_char_p, _Parameters]
    parameters = llama.llama_model_default_params()
    if parameters.vocab_only or parameters.check_tensors or parameters.no_alloc or parameters.progress_callback:
        return 0
    parameters.n_gpu_layers, parameters.load_mode, parameters.no_alloc = 0, _MODE_NONE, True
    llama.llama_backend_init()
    return 0 if llama.llama_model_load_from_file(os.fsencode(model), parameters) else _REFUSED


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
