"""`ggufkit inspect`: what a model is, without running it."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ggufkit.cli import _options, _output
from ggufkit.cli._words import why

if TYPE_CHECKING:
    from ggufkit.inspection.facts import Inspection
    from ggufkit.inspection.preview import Preview


def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            show_default=False,
            help="A GGUF file (of a split model, the first), a checkpoint folder, or owner/repo[:QUANT]: of these only"
            " headers are fetched.",
        ),
    ],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    metadata: Annotated[bool, typer.Option("--metadata", help="Show all metadata; of long lists the length.")] = False,
    template: Annotated[
        bool, typer.Option("--template", help="Show what a conversation becomes, token by token, and what is wrong.")
    ] = False,
    chat_template: Annotated[
        Path | None,
        typer.Option("--chat-template", metavar="FILE", show_default=False, help="Preview this Jinja file instead."),
    ] = None,
    recipe: Annotated[
        bool,
        typer.Option(
            "--recipe",
            help="Print the type of every tensor, for `quantize --recipe` or llama-quantize's --tensor-type-file.",
        ),
    ] = False,
    as_json: _options.Json = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print only the architecture.")] = False,
) -> None:
    """Tell what a model is, without running it.

    Architecture, size, true bits per weight, vocabulary, template, importance matrix, origin. No weights are read.
    --template shows a short conversation as the model would see it, with token ids.
    """
    from ggufkit.cli import _inspect_view

    with _headers(model) as path:
        if recipe:
            _show_recipe(path, model, as_json=as_json)
            return
        inspection = _inspected(path)
        previewed = _previewed(path, chat_template) if template or chat_template else None
        if as_json:
            _output.print_json(
                _inspect_view.document(
                    inspection, previewed, called=model, with_tensors=tensors, with_metadata=metadata
                )
            )
        elif quiet:
            print(inspection.architecture)
        else:
            _inspect_view.show(inspection, previewed, called=model, with_tensors=tensors, with_metadata=metadata)


def _show_recipe(path: Path, called: str, *, as_json: bool) -> None:
    from ggufkit.errors import UsageError
    from ggufkit.quantization import recipe

    if path.is_dir():
        raise UsageError(
            f"--recipe: {called} is a checkpoint, and recipes are of GGUF files",
            hint=f"ggufkit convert {called}, or ggufkit plan {called}",
        )
    found = recipe.recipe_of(path)
    if as_json:
        _output.print_json(recipe.to_json(found))
    else:
        print(recipe.text(found), end="")


@contextlib.contextmanager
def _headers(model: str) -> Iterator[Path]:
    """Yield a path that has the model's headers: its own, or for a model on the hub files with holes for weights."""
    from ggufkit.cli import _model

    with tempfile.TemporaryDirectory() as folder:
        name = _model.name_on_hub(model)
        if name is None:
            yield _model.resolve(model)
            return
        from ggufkit.checkpoints.hub_pull import find_cached
        from ggufkit.planning import remote

        cached = find_cached(name)
        if cached is None:
            hollow = remote.fetch(name.repository, Path(folder), quantization=name.quantization)
            cached = hollow.checkpoint or hollow.gguf
        if cached is not None:
            yield cached


def _inspected(path: Path) -> "Inspection":
    if path.is_dir():
        from ggufkit.inspection.checkpoint import inspect_checkpoint

        return inspect_checkpoint(path)
    from ggufkit.inspection.gguf import inspect_gguf

    return inspect_gguf(path)


def _previewed(path: Path, chat_template: Path | None) -> "Preview":
    from ggufkit.errors import GgufkitError, InputError
    from ggufkit.inspection.preview import preview

    source = None
    if chat_template:
        try:
            source = chat_template.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {chat_template}: {why(error)}") from error
    if not path.is_dir():
        return preview(path, source=source)
    from ggufkit.conversion import convert_vocabulary
    from ggufkit.inspection.preview import Preview

    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder) / "vocabulary.gguf"
        try:
            convert_vocabulary(path, vocabulary)
        except GgufkitError as error:
            return Preview((), "", None, False, (f"the template cannot be shown, because {error}",))
        return preview(vocabulary, source=source)
