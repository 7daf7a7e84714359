"""The standard streams, made whole: closed ones (`>&-`) lead nowhere; what cannot be written is dropped."""

import os
import sys


def fill() -> None:
    """Put /dev/null where stdout or stderr is closed.

    Else Python has None in their place, and the first file that is opened, a result or a model, gets their number:
    what llama.cpp prints would end up in it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the program
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the program


def give_up_output() -> None:
    """Write what is still held back if that is possible; else drop it, so that the interpreter's end does not fail."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
