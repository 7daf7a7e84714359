"""What llama.cpp's own reader of GGUF files makes of them, asked in a process of its own: a bad file may end it."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from typing import Self

from ggufkit.llamacpp.find import find


class Reference:
    """A context manager; the process is started when it is first asked, and again after it died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self.died = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.communicate()

    def accepts(self, path: Path) -> bool:
        """Tell whether `gguf_init_from_file` reads a file; a file that it dies of is none that it accepts."""
        if self._process is None:
            command = [sys.executable, "-S", __file__, find().library("ggml-base"), path]
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=_environment()
            )
        assert self._process.stdin
        assert self._process.stdout
        print(path, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline().strip()
        if answer:
            return answer == "yes"
        self._process.communicate()
        self._process = None
        self.died += 1
        return False


def _environment() -> dict[str, str]:
    return {**os.environ, "GGML_NO_BACKTRACE": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


class _Parameters(ctypes.Structure):
    """`struct gguf_init_params` of gguf.h."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("context", ctypes.POINTER(ctypes.c_void_p)))


def _answer(library: str) -> None:
    ggml = ctypes.CDLL(library)
    ggml.gguf_init_from_file.restype = ctypes.c_void_p
    ggml.gguf_init_from_file.argtypes = [ctypes.c_char_p, _Parameters]
    ggml.gguf_free.argtypes = ggml.ggml_free.argtypes = [ctypes.c_void_p]
    for line in sys.stdin:
        tensors = ctypes.c_void_p()
        found = ggml.gguf_init_from_file(os.fsencode(line.rstrip("\n")), _Parameters(True, ctypes.pointer(tensors)))
        sys.stdout.write("yes\n" if found else "no\n")
        sys.stdout.flush()
        if found:
            ggml.gguf_free(found)
            ggml.ggml_free(tensors)


if __name__ == "__main__":
    _answer(sys.argv[1])
