"""Asking a build's libraries what they are and what they can run on; in a child process, for they may crash.

As a program, `python -m ggufkit.llamacpp.devices LIBRARY_FOLDER` writes the answer as JSON.
"""

import ctypes
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufkit.errors import LlamaCppError
from ggufkit.llamacpp import run
from ggufkit.llamacpp.find import LIBRARY_SUFFIX, Installation

# enum ggml_backend_dev_type in ggml/include/ggml-backend.h
_KINDS = ("cpu", "gpu", "integrated gpu", "accelerator", "meta")


@dataclass(frozen=True, slots=True)
class Device:
    """One device that the build can compute on; memory in bytes."""

    name: str
    description: str
    backend: str
    kind: str
    memory_free: int
    memory_total: int


@dataclass(frozen=True, slots=True)
class Libraries:
    """What the libraries of a build say about themselves and this machine."""

    version: str
    commit: str
    features: tuple[str, ...]
    devices: tuple[Device, ...]


def ask(installation: Installation) -> Libraries:
    """Load the build's libraries in a child process and ask them. Raises LlamaCppError when they do not load."""
    # -P: the current folder may hold modules whose names hide the standard library's
    done = run.run([sys.executable, "-P", "-m", "ggufkit.llamacpp.devices", installation.lib])
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise LlamaCppError(f"the libraries in {installation.lib} gave no usable answer: {done.output}") from None
    devices = tuple(Device(**device) for device in answer["devices"])
    return Libraries(answer["version"], answer["commit"], features(answer["system"]), devices)


def features(system: str) -> tuple[str, ...]:
    """Read llama.cpp's `CPU : SSE3 = 1 | AVX2 = 1 | … | CUDA : ARCHS = 900 | …` as the names that are switched on."""
    words = (word.rpartition(" : ")[2].strip() for word in system.split("|"))
    pairs = (word.partition("=") for word in words if "=" in word)
    return tuple(
        name.strip() if value.strip() == "1" else f"{name.strip()}={value.strip()}"
        for name, _, value in pairs
        if value.strip() != "0"
    )


def _answer(folder: Path) -> dict[str, Any]:
    base, ggml, llama = (
        ctypes.CDLL(str(folder / f"lib{name}{LIBRARY_SUFFIX}")) for name in ("ggml-base", "ggml", "llama")
    )
    ggml.ggml_backend_load_all()
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    ggml.ggml_backend_dev_count.restype = size
    ggml.ggml_backend_dev_get.argtypes, ggml.ggml_backend_dev_get.restype = [size], pointer
    base.ggml_backend_dev_backend_reg.argtypes, base.ggml_backend_dev_backend_reg.restype = [pointer], pointer
    base.ggml_backend_dev_type.argtypes = [pointer]
    base.ggml_backend_dev_memory.argtypes = [pointer, ctypes.POINTER(size), ctypes.POINTER(size)]
    for function in (base.ggml_backend_dev_name, base.ggml_backend_dev_description, base.ggml_backend_reg_name):
        function.argtypes, function.restype = [pointer], text
    for function in (base.ggml_commit, llama.llama_version, llama.llama_print_system_info):
        function.restype = text
    devices = []
    for index in range(ggml.ggml_backend_dev_count()):
        device = ggml.ggml_backend_dev_get(index)
        free, total = size(0), size(0)
        base.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        kind = base.ggml_backend_dev_type(device)
        devices.append(
            {
                "name": _text(base.ggml_backend_dev_name(device)),
                "description": _text(base.ggml_backend_dev_description(device)),
                "backend": _text(base.ggml_backend_reg_name(base.ggml_backend_dev_backend_reg(device))),
                "kind": _KINDS[kind] if kind < len(_KINDS) else str(kind),
                "memory_free": free.value,
                "memory_total": total.value,
            }
        )
    return {
        "version": _text(llama.llama_version()),
        "commit": _text(base.ggml_commit()),
        "system": _text(llama.llama_print_system_info()),
        "devices": devices,
    }


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_answer(Path(sys.argv[1]))))
