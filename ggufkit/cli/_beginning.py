"""What a command starts before its arguments are read: two tenths of a second pass until Typer can read them."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

Beginning = Callable[[Sequence[str]], AbstractContextManager[object]]

_READS_NOTHING = ("-h", "--help", "--setup-baseline", "--list-baselines", "--remove-baseline")


def of(arguments: Sequence[str]) -> AbstractContextManager[object]:
    """Return what is to be around the command that `arguments` call.

    Raises:
        LlamaCppError: what it needs could not be started.
    """
    begin = _BEGINNINGS.get(arguments[0]) if arguments else None
    return begin(arguments[1:]) if begin else nullcontext()


def _evaluating(arguments: Sequence[str]) -> AbstractContextManager[object]:
    """Start the child that will read texts, so that it has loaded llama.cpp when we know what is to be read."""
    if any(argument.startswith(_READS_NOTHING) for argument in arguments):
        return nullcontext()
    from ggufkit.evaluation.child_process import one_for_all

    return one_for_all()


_BEGINNINGS: Mapping[str, Beginning] = {"eval": _evaluating}
