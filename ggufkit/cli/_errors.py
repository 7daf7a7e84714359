"""One table from what went wrong to what a person sees: a line, a hint, an exit code."""

import errno
import os
import sys
import traceback

from ggufkit.errors import GgufkitError, InputError, OutputError, UsageError

INTERRUPTED = 130
_BAD_PATH = {
    errno.ENAMETOOLONG: UsageError.exit_code,
    errno.ELOOP: UsageError.exit_code,
    errno.ENOENT: InputError.exit_code,
    errno.ENOTDIR: InputError.exit_code,
    errno.EISDIR: InputError.exit_code,
    errno.EACCES: OutputError.exit_code,
    errno.EPERM: OutputError.exit_code,
}
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})


def report(error: BaseException) -> int:
    """Print an error as `error: …` and `hint: …` on stderr; return the exit code. GGUFKIT_DEBUG=1 shows more."""
    if os.environ.get("GGUFKIT_DEBUG") == "1":
        traceback.print_exception(error)
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, SystemExit | KeyboardInterrupt):
        error = error.__cause__  # Python 3.11 wraps what a signal raises while a class is made, as in an import
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, KeyboardInterrupt):
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    if isinstance(error, GgufkitError):
        print(f"error: {_one_line(error)}", file=sys.stderr)
        if hint := error.hint or _next_step(error):
            print(f"\nhint: {_one_line(hint)}", file=sys.stderr)
        return OutputError.exit_code if _is_of_disk(error) else error.exit_code
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        done = "read or write" if error.errno == errno.EIO else "write"
        place = _one_line(str(error.filename or "the output"))
        print(f"error: cannot {done} {place}: {error.strerror}", file=sys.stderr)
        return OutputError.exit_code
    if isinstance(error, OSError) and error.errno in _BAD_PATH and error.filename is not None:
        print(f"error: {_one_line(str(error.filename)[:200])}: {error.strerror}", file=sys.stderr)
        if hint := _next_step(error):
            print(f"\nhint: {_one_line(hint)}", file=sys.stderr)
        return _BAD_PATH[error.errno]
    print(f"error: {type(error).__name__}: {_one_line(error)}", file=sys.stderr)
    print("\nhint: this is a bug in ggufkit; GGUFKIT_DEBUG=1 shows where", file=sys.stderr)
    return 1


def _next_step(error: BaseException) -> str | None:
    from ggufkit.cli._next_step import next_step

    return next_step(error)


def _is_of_disk(error: BaseException) -> bool:
    """Tell whether a disk that failed is behind an error: then nothing is known about what should be read from it."""
    cause = error.__cause__ or error.__context__
    return isinstance(cause, OSError) and cause.errno == errno.EIO


def _one_line(error: BaseException | str) -> str:
    """Names come from strangers' files: nothing in them may move the cursor or forge a line."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in str(error))
