"""Where weights go: devices, splits and buffer types, written into llama.cpp's parameters, which the binding lacks."""

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ggufkit.errors import InputError, LlamaCppError, UsageError
from ggufkit.llamacpp import binding
from ggufkit.llamacpp.native.library import (
    DEVICE_GPU,
    DEVICE_INTEGRATED_GPU,
    devices,
    ggml,
    library,
    log_excerpt,
)

SPLIT_MODES = {"none": 0, "layer": 1, "row": 2, "tensor": 3}  # llama.h, enum llama_split_mode
LOAD_MODES = {"auto": -1, "none": 0, "mmap": 1, "mlock": 2, "mmap+mlock": 3, "dio": 4}  # llama.h, enum llama_load_mode


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the weights of a model go.

    Attributes:
        gpu_layers: layers (the last ones) on other devices than the CPU; negative: all.
        split_mode: how devices share the model, a key of SPLIT_MODES.
        main_gpu: index of the device that holds everything when nothing is split.
        tensor_split: what each device gets, as proportions; empty: by free memory.
        tensor_overrides: pairs of a regular expression for names of tensors and the buffer type that takes them.
        devices: names of the devices to use, in this order; None: all. Empty: only the CPU.
        rpc_servers: `host:port` of machines whose devices are to be used as well.
    """

    gpu_layers: int = -1
    split_mode: str = "layer"
    main_gpu: int = 0
    tensor_split: tuple[float, ...] = ()
    tensor_overrides: tuple[tuple[str, str], ...] = ()
    devices: tuple[str, ...] | None = None
    rpc_servers: tuple[str, ...] = ()


class _TensorOverride(ctypes.Structure):
    """`struct llama_model_tensor_buft_override` of llama.h."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


def write(placement: Placement, parameters: Any) -> list[Any]:
    """Write a placement into `llama_model_params`; return what must live until the model is loaded.

    Raises:
        UsageError: a device or a buffer type has no such name, or there are too many devices.
        InputError: an RPC server offers nothing.
        LlamaCppError: the build has no RPC.
    """
    for server in placement.rpc_servers:
        add_rpc_server(server)
    chosen = placement.devices
    if chosen is None and any(name not in _rpc_devices(placement.rpc_servers) for name in _rpc_devices(_added)):
        chosen = _without_strangers(placement.rpc_servers)
    parameters.n_gpu_layers = placement.gpu_layers
    parameters.split_mode = SPLIT_MODES[placement.split_mode]
    parameters.main_gpu = placement.main_gpu
    kept: list[Any] = []
    if placement.tensor_split:
        most = int(library().llama_max_devices())
        if len(placement.tensor_split) > most:
            raise UsageError(f"tensor_split names {len(placement.tensor_split)} devices; this build takes {most}")
        shares = (ctypes.c_float * most)(*placement.tensor_split)
        parameters.tensor_split = shares
        kept.append(shares)
    if chosen is not None:
        handles = (ctypes.c_void_p * (len(chosen) + 1))(*devices_named(chosen), None)
        parameters.devices = ctypes.addressof(handles)
        kept.append(handles)
    if placement.tensor_overrides:
        overrides = _overrides(placement.tensor_overrides)
        parameters.tensor_buft_overrides = ctypes.addressof(overrides)
        kept.append(overrides)
    return kept


_added: dict[str, tuple[str, ...]] = {}  # the names of the devices of each RPC server that this process knows


def add_rpc_server(server: str) -> None:
    """Make the devices of another machine known to this process. llama.cpp ends the process when it is unreachable.

    Raises:
        InputError: the server offers no device.
        LlamaCppError: the build has no RPC.
    """
    if server in _added:
        return
    functions, logged = ggml(), binding.log_position()
    before = set(devices())
    backend = functions.ggml_backend_reg_by_name(b"RPC")
    address = backend and functions.ggml_backend_reg_get_proc_address(backend, b"ggml_backend_rpc_add_server")
    if not address:
        raise LlamaCppError("this build of llama.cpp cannot use other machines: it has no RPC", hint="ggufkit setup")
    added = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)(address)(server.encode())
    if not added:
        raise InputError(f"the RPC server {server} offers no device: {log_excerpt(logged)}")
    functions.ggml_backend_register(added)
    _added[server] = tuple(name for name in devices() if name not in before)


def _rpc_devices(servers: Iterable[str]) -> list[str]:
    return [name for server in servers for name in _added[server]]


def _without_strangers(servers: Sequence[str]) -> tuple[str, ...]:
    """Name the devices that llama.cpp would choose, had the process never heard of other RPC servers than these."""
    functions, known = ggml(), devices()
    local = [name for name in known if name not in _rpc_devices(_added)]
    gpus = [name for name in local if functions.ggml_backend_dev_type(known[name]) == DEVICE_GPU]
    others = [name for name in local if functions.ggml_backend_dev_type(known[name]) == DEVICE_INTEGRATED_GPU]
    return (*_rpc_devices(servers), *(gpus or others))


def buffer_types() -> dict[str, Any]:
    """Return the handle of every device's own buffer type by its name, such as `CPU` or `CUDA0`."""
    functions = ggml()
    handles = [functions.ggml_backend_dev_buffer_type(device) for device in devices().values()]
    return {functions.ggml_backend_buft_name(handle).decode("utf-8", "replace"): handle for handle in handles if handle}


def devices_named(names: Sequence[str]) -> list[Any]:
    """Return the handles of devices. Raises UsageError: there is none of a name."""
    known = devices()
    for name in names:
        if name not in known:
            raise UsageError(f"there is no device {name}; this build sees {', '.join(known)}")
    return [known[name] for name in names]


def _overrides(pairs: Sequence[tuple[str, str]]) -> Any:
    known = buffer_types()
    overrides = (_TensorOverride * (len(pairs) + 1))()
    for override, (pattern, name) in zip(overrides, pairs, strict=False):  # the last one stays empty: it ends the list
        if name not in known:
            raise UsageError(f"there is no buffer type {name} for {pattern}; this build has {', '.join(known)}")
        override.pattern, override.buffer_type = pattern.encode(), known[name]
    return overrides
