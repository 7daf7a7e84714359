"""`ggufkit export`: a finished model to where other programs look for it. One file per destination."""

import typer

from ggufkit.cli import export_lmstudio, export_ollama, push

app = typer.Typer(
    help="Bring a model to Ollama, to the hub or to another program.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("ollama", cls=export_ollama.PairedOptions)(export_ollama.command)
app.command("lmstudio")(export_lmstudio.command)
app.command("hub")(push.command)
