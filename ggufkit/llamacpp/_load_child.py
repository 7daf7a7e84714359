"""What `load_check` runs in a process of its own: `python _load_child.py LIBLLAMA MODEL HOW`; status 3 means refused.

HOW is `load` (the table of tensors is filled in, no weight is read), `plan` (a context is laid out as well, with all
that is computed in it, and nothing allocated) or `run` (weights are loaded, and the first token is computed).
"""

import ctypes
import os
import sys

_REFUSED = 3
_MODE_NONE, _MODE_MMAP = 0, 1  # llama.h, enum llama_load_mode
_CONTEXT = 64


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


class _ContextParameters(ctypes.Structure):
    """The beginning of `struct llama_context_params`; the rest stays as llama.cpp made it."""

    _fields_ = (
        ("n_ctx", ctypes.c_uint32),
        ("n_batch", ctypes.c_uint32),
        ("n_ubatch", ctypes.c_uint32),
        ("n_seq_max", ctypes.c_uint32),
        ("rest_and_room", ctypes.c_char * 496),
    )


class _Batch(ctypes.Structure):
    """`struct llama_batch`."""

    _fields_ = (("n_tokens", ctypes.c_int32), *((name, ctypes.c_void_p) for name in "tepnsl"))


def main(library: str, model: str, how: str) -> int:
    """Try a model; 0 where that works, or where this build's parameters are not the pinned."""
    llama = ctypes.CDLL(library)
    llama.llama_model_default_params.restype = _Parameters
    llama.llama_model_load_from_file.restype = ctypes.c_void_p
    llama.llama_model_load_from_file.argtypes = [ctypes.c_char_p, _Parameters]
    parameters = llama.llama_model_default_params()
    if parameters.vocab_only or parameters.check_tensors or parameters.no_alloc or parameters.progress_callback:
        return 0
    parameters.n_gpu_layers = 0
    parameters.load_mode, parameters.no_alloc = (_MODE_MMAP, False) if how == "run" else (_MODE_NONE, True)
    llama.llama_backend_init()
    handle = llama.llama_model_load_from_file(os.fsencode(model), parameters)
    if not handle:
        return _REFUSED
    if how == "load":
        return 0
    return _compute(llama, handle, how == "run")


def _compute(llama: ctypes.CDLL, model: int, really: bool) -> int:
    llama.llama_context_default_params.restype = _ContextParameters
    llama.llama_init_from_model.restype = ctypes.c_void_p
    llama.llama_init_from_model.argtypes = [ctypes.c_void_p, _ContextParameters]
    parameters = llama.llama_context_default_params()
    if (parameters.n_ctx, parameters.n_batch, parameters.n_seq_max) != (512, 2048, 1):
        return 0
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = _CONTEXT
    context = llama.llama_init_from_model(model, parameters)
    if not context:
        return _REFUSED
    llama.llama_model_has_encoder.argtypes = llama.llama_model_has_decoder.argtypes = [ctypes.c_void_p]
    llama.llama_model_has_encoder.restype = llama.llama_model_has_decoder.restype = ctypes.c_bool
    if not really or llama.llama_model_has_encoder(model) or not llama.llama_model_has_decoder(model):
        return 0
    llama.llama_batch_get_one.restype = _Batch
    llama.llama_decode.argtypes = [ctypes.c_void_p, _Batch]
    tokens = (ctypes.c_int32 * 2)(0, 0)
    return _REFUSED if llama.llama_decode(context, llama.llama_batch_get_one(tokens, 2)) else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
