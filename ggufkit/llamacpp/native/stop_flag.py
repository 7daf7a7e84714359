"""The flag that stops a computation: ggml reads it after every node of the graph, so it is read without Python."""

import ctypes
import sys
from typing import Any


class StopFlag:
    """A text of no letters, or of one. `strlen` of it is the answer to ggml's question whether to abort.

    A callback in Python would take the interpreter's lock thousands of times for a prompt: a millisecond and more in
    every call of llama_decode. `strlen` has the signature of `ggml_abort_callback` (ggml-cpu.h) in every ABI that
    llama.cpp runs on: a pointer in, a register out, of which C tests the lowest byte.
    """

    def __init__(self, lib: Any) -> None:
        self._text = ctypes.create_string_buffer(2)
        runtime = ctypes.cdll.msvcrt if sys.platform == "win32" else ctypes.CDLL(None)
        self.callback: Any = ctypes.cast(runtime.strlen, lib.ggml_abort_callback)
        self.data = ctypes.cast(self._text, ctypes.c_void_p)

    def set(self) -> None:
        """Stop what is being computed, and what is begun before `clear`."""
        self._text.value = b"x"

    def clear(self) -> None:
        """Let computations run again."""
        self._text.value = b""
