"""All commands in the order of the work, and what a bare `ggufkit` prints."""

from typing import Annotated, ClassVar

import typer

from ggufkit import __version__
from ggufkit.cli._commands import CommandTable, Entry

EXAMPLES = """\
Examples:
  ggufkit convert ./my-model                   checkpoint folder -> my-model-F16.gguf
  ggufkit plan ./my-model                      what every type would cost, and which to take
  ggufkit quantize Q4_K_M my-model-F16.gguf    -> my-model-Q4_K_M.gguf
  ggufkit chat my-model-Q4_K_M.gguf            talk to it
  ggufkit doctor                               what is installed, what is missing
"""


class Commands(CommandTable):
    """All commands of ggufkit, in the order of the work."""

    table: ClassVar = {
        "Models": [
            Entry("pull", "pull", "Fetch a model from the hub; print where it is."),
            Entry("list", "list", "List the models on this machine."),
            Entry("ls", "list", hidden=True),
            Entry("rm", "rm", "Remove models from this machine."),
            Entry("inspect", "inspect", "Tell what a model is, without running it."),
            Entry("check", "check", "Tell whether a model is fit to be used."),
            Entry("show", "inspect", hidden=True),
            Entry("diff", "diff", "Tell what two GGUF models differ in."),
            Entry("edit", "edit", "Copy a GGUF file with other metadata."),
        ],
        "Make": [
            Entry("convert", "convert", "Convert a Hugging Face checkpoint to GGUF."),
            Entry("plan", "plan", "Show what every type would cost, before anything runs."),
            Entry("quantize", "quantize", "Make a model several times smaller for a little loss."),
            Entry("optimize", "optimize", "Make the best file of a size: types chosen by measuring."),
            Entry("imatrix", "imatrix", "Measure which weights of a model matter."),
            Entry("convert-lora", "convert_lora", "Convert a LoRA adapter to GGUF."),
            Entry("merge-lora", "merge_lora", "Merge a LoRA adapter into its model."),
        ],
        "Run": [
            Entry("chat", "chat", "Talk to a model."),
            Entry("generate", "generate", "Answer a prompt, or every line of a file."),
            Entry("serve", "serve", "Serve a model to OpenAI's clients, with a chat page."),
            Entry("tune", "tune", "Find and keep the fastest settings of this machine."),
            Entry("worker", "worker", "Lend memory and compute to another machine."),
        ],
        "Measure": [
            Entry("verify", "verify", "Compare a GGUF file with its checkpoint."),
            Entry("eval", "evaluate", "Measure what quantizing has cost."),
            Entry("bench", "bench", "Measure speed and memory."),
            Entry("report", "report", "Make one HTML page of results."),
        ],
        "Share": [
            Entry("export", "export", "Bring a model to Ollama, to LM Studio, or to the hub."),
            Entry("push", "push", "Upload GGUF models to the hub with a model card."),
        ],
        "This machine": [
            Entry("setup", "setup", "Build llama.cpp and install its Python binding (once)."),
            Entry("doctor", "doctor", "Show what is installed, and what is missing."),
        ],
    }


app = typer.Typer(
    name="ggufkit",
    cls=Commands,
    help="From a Hugging Face checkpoint to a GGUF model that runs well on an ordinary machine.",
    epilog="Errors: 2 usage, 3 bad input, 4 unsafe, 5 disk or permission, 6 llama.cpp failed, 7 verification failed.",
    pretty_exceptions_enable=False,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)


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
