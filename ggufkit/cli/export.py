"""`ggufkit export`: a finished model to where other programs look for it. One file per destination."""

from typing import ClassVar

import typer

from ggufkit.cli._commands import CommandTable, Entry


class Destinations(CommandTable):
    """Where a model can go."""

    table: ClassVar = {
        "Destinations": [
            Entry("ollama", "export_ollama", "Write a model into Ollama's model store."),
            Entry("lmstudio", "export_lmstudio", "Link a model into LM Studio's folder."),
            Entry("hub", "push", "Upload GGUF models to the hub with a model card."),
        ]
    }


app = typer.Typer(
    cls=Destinations,
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(context: typer.Context) -> None:
    """Bring a model to Ollama, to LM Studio, or to the hub."""
    if context.invoked_subcommand is None:
        print(context.get_help())
