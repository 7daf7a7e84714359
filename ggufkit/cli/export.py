"""`ggufkit export`: a finished model to where other programs look for it. One file per destination."""

import typer

from ggufkit.cli import export_lmstudio, export_ollama, push

app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("ollama", cls=export_ollama.PairedOptions)(export_ollama.command)
app.command("lmstudio")(export_lmstudio.command)
app.command("hub")(push.command)


@app.callback()
def root(context: typer.Context) -> None:
    """Bring a model to Ollama, to LM Studio, or to the hub."""
    if context.invoked_subcommand is None:
        print(context.get_help())
