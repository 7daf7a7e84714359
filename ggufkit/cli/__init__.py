"""The `ggufkit` command: parse arguments, call the Python API, print the result. Nothing else.

One file per command, named after it, with a function `command`. These files import nothing heavy at their top
(the API is imported inside `command`) and are loaded when they are called, so that `ggufkit --help` is instant.
"""

import sys

from ggufkit import garbage
from ggufkit.cli import _beginning, _errors, _signals, _standard_streams
from ggufkit.errors import GgufkitError


def main() -> None:
    """Run the command; whatever a user can cause ends as one line, a hint and a documented exit code."""
    garbage.search_less()
    _standard_streams.fill()
    try:
        with _signals.orderly_end(), _beginning.of(sys.argv[1:]):
            from ggufkit.cli._app import app  # here, for what a command needs has been started before

            try:
                app(prog_name="ggufkit")  # also as `python -m ggufkit`
            except SystemExit:  # how Typer ends, with 0 too
                sys.stdout.flush()  # now, for a full disk can still be reported
                raise
    except (GgufkitError, KeyboardInterrupt) as error:
        sys.exit(_errors.report(error))
    except BrokenPipeError:
        # Whoever read our output (`| head`) has seen enough.
        _standard_streams.give_up_output()
        sys.exit(141)
    except Exception as error:  # noqa: BLE001 - the last line of defence: a bug becomes one line as well
        code = _errors.report(error)
        _standard_streams.give_up_output()
        sys.exit(code)
