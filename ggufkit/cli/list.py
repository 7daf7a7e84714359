"""`ggufkit list`: the models on this machine."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggufkit.cli import _options, _output

if TYPE_CHECKING:
    from ggufkit.exports.installed import InstalledModel

PLACES = ("hub", "ollama", "lmstudio", "ggufkit")


def command(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FOLDER...", show_default=False, help="Look in these folders too."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option("--from", metavar="|".join(PLACES), show_default=False, help="List those of one place only."),
    ] = None,
    as_json: _options.Json = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print only the names.")] = False,
) -> None:
    """List the models on this machine.

    Looked at are Hugging Face's cache, Ollama's stores, LM Studio's folder and ggufkit's own. Names of models in the
    cache are what every command takes. ggufkit's own folder is $GGUFKIT_MODELS, by default
    ~/.local/share/ggufkit/models; folders that `pull --local-dir` wrote to are looked at as well.
    """
    from ggufkit.errors import InputError
    from ggufkit.exports.installed import installed_models

    place = parse_place(where)
    for folder in folders or ():
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder" if folder.exists() else f"no such folder: {folder}")
    models = [model for model in installed_models(folders or ()) if place in {None, model.where}]
    if as_json:
        _output.print_json({"models": [document(model) for model in models]})
    elif quiet:
        for model in models:
            print(model.name)
    elif not models:
        _output.note("no model is here yet; ggufkit pull owner/repo:Q4_K_M fetches one")
    else:
        show(models)


def parse_place(text: str | None) -> Any:
    """Read what `--from` says. Raises UsageError."""
    from ggufkit.cli._usage_errors import none_of
    from ggufkit.exports.installed import Where

    if text is None:
        return None
    if text.lower() not in PLACES:
        raise none_of(text, PLACES, "--from")
    return Where(text.lower())


def show(models: "list[InstalledModel]") -> None:
    """Print a table."""
    from ggufkit.cli._inspect_view import printable

    rows = [("NAME", "TYPE", "SIZE", "WHERE", "MODIFIED", "")]
    for model in models:
        day = time.strftime("%Y-%m-%d", time.localtime(model.modified)) if model.modified else ""
        kind = " ".join(part for part in ("" if model.kind == "gguf" else model.kind, model.type) if part)
        rows.append((printable(model.name), kind, _output.size(model.size), model.where.value, day, model.problem))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        name, kind, size, where, day, problem = row
        line = (
            f"{name:<{widths[0]}}  {kind:<{widths[1]}}  {size:>{widths[2]}}  {where:<{widths[3]}}  {day:<{widths[4]}}"
        )
        print(f"{line}  {printable(problem)}".rstrip())


def document(model: "InstalledModel") -> dict[str, Any]:
    """Give a model as what `--json` prints."""
    return {
        "name": model.name,
        "where": model.where.value,
        "kind": model.kind,
        "type": model.type,
        "path": str(model.path) if model.path else None,
        "bytes": model.size,
        "files": [str(path) for path in model.files],
        "modified": model.modified,
        "problem": model.problem or None,
    }
