"""Running our children that answer request files: one for each request, or one for all; their errors become ours.

`python -c "from ggufkit.evaluation.child_process import attend; attend()"` is the one for all.
"""

import contextvars
import errno
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from ggufkit import errors, garbage
from ggufkit.errors import GgufkitError, LlamaCppError, OutputError
from ggufkit.llamacpp.attendant import ENDED, LEAVES, Attendant
from ggufkit.llamacpp.run import run

_OF_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
REFUSED = 3  # the status of a child that has written a refusal
_ATTEND = "from ggufkit.evaluation.child_process import attend; attend()"
_attendant: contextvars.ContextVar[Attendant | None] = contextvars.ContextVar("_attendant", default=None)


@contextmanager
def one_for_all() -> Iterator[None]:
    """Let one child, which starts now, answer all that `ask` is called for in this context: it loads libraries once.

    Where one of them makes it die, another one takes its place. Inside of another such block nothing changes.

    Raises:
        LlamaCppError: it could not be started.
    """
    if _attendant.get():
        yield
        return
    with Attendant([sys.executable, "-P", "-c", _ATTEND]) as attendant:
        token = _attendant.set(attendant)
        try:
            yield
        finally:
            _attendant.reset(token)


def refusal(error: GgufkitError) -> str:
    """Write an error for the parent; of a kind that only a room of ours knows, the nearest that all know.

    What the system has said goes along: that a disk fails is not the fault of what should be read from it.
    """
    kind = next(each.__name__ for each in type(error).__mro__ if hasattr(errors, each.__name__))
    cause = error.__cause__ or error.__context__
    number = cause.errno if isinstance(cause, OSError) else None
    return json.dumps({"message": str(error), "hint": error.hint, "kind": kind, "errno": number})


def raise_refusal(answer: Path) -> NoReturn:
    """Raise what a child has refused: an error of the same kind, from what the system had said."""
    told = json.loads(answer.read_text())
    kind, number = getattr(errors, told["kind"], GgufkitError), told["errno"]
    raise kind(told["message"], hint=told["hint"]) from number and OSError(number, os.strerror(number))


@contextmanager
def refusing() -> Iterator[Path]:
    """In a child: yield the request file, the argument; an error of ours becomes a refusal beside it, and the end.

    So does a full disk.
    """
    path = Path(sys.argv[1])
    try:
        yield path
    except GgufkitError as error:
        path.with_suffix(".error.json").write_text(refusal(error))
        sys.exit(REFUSED)
    except OSError as error:
        if error.errno not in _OF_DISK:
            raise
        told = OutputError(f"cannot write {error.filename or f'to {path.parent}'}: {error.strerror}")
        told.__cause__ = error
        path.unlink(missing_ok=True)  # its room, where there is no other
        path.with_suffix(".error.json").write_text(refusal(told))
        sys.exit(REFUSED)


def ask(
    module: str,
    request: Path,
    model: str,
    on_line: Callable[[str], None] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Let `module.main` do what a request file asks for; a refusal lies beside it as `.error.json`.

    `environment` is added to that of a child of its own; one for all has it as it was.

    Raises:
        GgufkitError: what the child refused, of the same kind.
        LlamaCppError: it died; of `model`.
    """
    answer = request.with_suffix(".error.json")
    answer.unlink(missing_ok=True)
    attendant = _attendant.get()
    try:
        if attendant:
            attendant.ask(json.dumps([module, str(request)]), on_line)
        else:
            command: list[str | Path] = [sys.executable, "-P", "-c", f"from {module} import main; main()", request]
            run(command, on_line=on_line, environment=environment)
    except LlamaCppError as error:
        if answer.exists():
            raise_refusal(answer)
        raise LlamaCppError(f"{model}: {str(error).partition(' (command: ')[0]}") from None


def ask_first(module: str) -> Callable[[str], list[str]] | None:
    """Return what lets `module.main` do a request, and returns the lines that it writes; None without one for all.

    Errors are as those of `ask`, and OutputError where the request cannot be written.
    """
    if _attendant.get() is None:
        return None

    def asking(request: str) -> list[str]:
        lines: list[str] = []
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "request.json"
                path.write_text(request)
                ask(module, path, module, lines.append)
        except OSError as error:
            raise OutputError(f"cannot write a request to {tempfile.gettempdir()}: {error.strerror}") from error
        return lines

    return asking


def release() -> None:
    """Let the one for all end, for nothing more is expected to be asked; who asks nevertheless starts another."""
    attendant = _attendant.get()
    if attendant:
        attendant.release()


def give_up() -> None:
    """Kill the one for all while another thread waits for its answer; what is asked later starts a new one."""
    attendant = _attendant.get()
    if attendant:
        attendant.give_up()


def attend() -> None:
    """Do what each line of stdin asks for, a module and a request file, until stdin ends.

    Where the memory that one has taken would count for the next one too, there is no next one.
    """
    from ggufkit.idle_blas import idle_blas  # here, for the parent has no use for it
    from ggufkit.llamacpp.memory_child import prepare
    from ggufkit.peak_memory import forget_peak

    garbage.search_less()
    prepare()
    with suppress(GgufkitError), idle_blas():  # whoever needs it will be told why it cannot be had
        for needed in ("ggufkit.evaluation.likelihood.child", "ggufkit.inference.chunk_reader"):
            import_module(needed)
    for line in sys.stdin:
        module, request = json.loads(line)
        sys.argv[1:] = [request]
        status: object = 0
        try:
            import_module(module).main()
        except SystemExit as end:
            status = end.code
        stays = forget_peak()
        # On a line of its own, whatever C may have left unfinished.
        sys.stdout.write(f"\n{ENDED} {status or 0}{'' if stays else f' {LEAVES}'}\n")
        sys.stdout.flush()
        if not stays:
            break
    os._exit(0)  # all is written, and somebody waits: unloading libraries takes longer than an answer
