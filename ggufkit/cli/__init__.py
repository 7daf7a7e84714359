"""The `ggufkit` command: parse arguments, call the Python API, print the result. Nothing else.

One file per command, named after it, with a function `command`. These files import nothing heavy at their top
(the API is imported inside `command`), so that `ggufkit --help` is instant.
"""

import sys
from typing import Annotated

import typer

from ggufkit import __version__
from ggufkit.cli import (
    _errors,
    _signals,
    _standard_streams,
    bench,
    chat,
    convert,
    convert_lora,
    diff,
    doctor,
    edit,
    evaluate,
    export,
    generate,
    imatrix,
    inspect,
    merge_lora,
    plan,
    pull,
    push,
    quantize,
    report,
    rm,
    serve,
    setup,
    tune,
    verify,
    worker,
)
from ggufkit.cli import list as list_models
from ggufkit.cli._help import GroupedCommand
from ggufkit.errors import GgufkitError

EXAMPLES = """\
Examples:
  ggufkit convert ./my-model                   checkpoint folder -> my-model-F16.gguf
  ggufkit plan ./my-model                      what every type would cost, and which to take
  ggufkit quantize Q4_K_M my-model-F16.gguf    -> my-model-Q4_K_M.gguf
  ggufkit chat my-model-Q4_K_M.gguf            talk to it
  ggufkit doctor                               what is installed, what is missing
"""

app = typer.Typer(
    name="ggufkit",
    help="From a Hugging Face checkpoint to a GGUF model that runs well on an ordinary machine.",
    epilog="Errors: 2 usage, 3 bad input, 4 unsafe, 5 disk or permission, 6 llama.cpp failed, 7 verification failed.",
    pretty_exceptions_enable=False,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)
app.command("pull")(pull.command)
app.command("push")(push.command)
app.command("list")(list_models.command)
app.command("ls", hidden=True)(list_models.command)
app.command("rm")(rm.command)
app.command("convert", cls=GroupedCommand)(convert.command)
app.command("plan", cls=GroupedCommand)(plan.command)
app.command("quantize", cls=GroupedCommand)(quantize.command)
app.command("imatrix", cls=GroupedCommand)(imatrix.command)
app.command("chat", cls=GroupedCommand)(chat.command)
app.command("generate", cls=GroupedCommand)(generate.command)
app.command("tune")(tune.command)
app.command("inspect")(inspect.command)
app.command("show", hidden=True)(inspect.command)
app.command("diff")(diff.command)
app.command("edit")(edit.command)
app.command("bench", cls=GroupedCommand)(bench.command)
app.command("eval", cls=GroupedCommand)(evaluate.command)
app.command("report")(report.command)
app.command("verify", cls=GroupedCommand)(verify.command)
app.command("convert-lora")(convert_lora.command)
app.command("merge-lora")(merge_lora.command)
app.add_typer(export.app, name="export")
app.command("serve", cls=GroupedCommand)(serve.command)
app.command("worker")(worker.command)
app.command("setup")(setup.command)
app.command("doctor")(doctor.command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"ggufkit {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - Typer calls its callback
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """From a Hugging Face checkpoint to a GGUF model that runs well on an ordinary machine."""
    if context.invoked_subcommand is None:
        print(context.get_help())
        print()
        print(EXAMPLES, end="")


def main() -> None:
    """Run the command; whatever a user can cause ends as one line, a hint and a documented exit code."""
    _standard_streams.fill()
    try:
        with _signals.orderly_end():
            try:
                app()
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
