"""`ggufkit export lmstudio`: a model into the folder where LM Studio looks for models."""

from pathlib import Path
from typing import Annotated

import typer

from ggufkit.cli import _model, _options, _output


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=_model.HELP)],
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="What LM Studio shall call it, NAME or PUBLISHER/NAME; default: as the file does.",
            show_default=False,
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder", metavar="DIR", help="LM Studio's models; default: what LM Studio uses.", show_default=False
        ),
    ] = None,
    mmproj: Annotated[
        Path | None,
        typer.Option("--mmproj", metavar="FILE", help="A projector for images as GGUF.", show_default=False),
    ] = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="Copy the model, where a link to it would do and take no disk.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace other files of the same name.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be written, and write nothing.")] = False,
    as_json: _options.Json = False,
    quiet: _options.Quiet = False,
) -> None:
    """Link a model into LM Studio's folder. The file is not copied where the file system allows a link."""
    from ggufkit.exports import lmstudio

    path = _model.resolve(model, kind="gguf", quiet=quiet or as_json)
    plan = lmstudio.plan_export(path, name, folder or lmstudio.models_folder(), projector=mmproj)
    done = []
    if not dry_run:
        with _output.progress_bar(quiet=quiet or as_json) as progress:
            done = lmstudio.export(plan, copy=copy, overwrite=overwrite, progress=progress)
    if as_json:
        files = [{"path": str(file.path), "how": file.way, "bytes": file.size} for file in done]
        planned = [{"path": str(target), "bytes": source.stat().st_size} for source, target in plan.files]
        _output.print_json({"name": plan.name, "files": files or planned, "written": not dry_run})
        return
    for file in done:
        print(file.path if quiet else f"{file.path}: {_output.size(file.size)}, {file.way}")
    for source, target in plan.files if dry_run else ():
        print(f"{target}: {_output.size(source.stat().st_size)}, not written")
