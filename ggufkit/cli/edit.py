"""`ggufkit edit`: a copy of a GGUF file with other metadata."""

import difflib
from pathlib import Path
from typing import Annotated

import typer

from ggufkit.cli import _model, _options, _output
from ggufkit.cli._words import why


def command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A GGUF file; of a split model its first part.", show_default=False)
    ],
    output: _options.Output = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            show_default=False,
            help="Set a key, such as general.license=mit; of an unknown key say the type: KEY=u32:7, KEY=str[]:a,b.",
        ),
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", metavar="KEY", show_default=False, help="Leave a key out.")
    ] = None,
    metadata: Annotated[
        Path | None,
        typer.Option(metavar="FILE", show_default=False, help="JSON with keys to set, as llama.cpp's converter reads."),
    ] = None,
    chat_template: Annotated[
        Path | None, typer.Option(metavar="FILE", show_default=False, help="Set the chat template to this Jinja file.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and write nothing.")] = False,
    as_json: _options.Json = False,
    quiet: _options.Quiet = False,
) -> None:
    """Copy a GGUF file with other metadata.

    Tensors stay as they are, bit by bit. What makes the file another model than its tensors say (architecture, tokens,
    sizes) cannot be changed. The copy is whole or absent.
    """
    from ggufkit.conversion.metadata_edits import check_changeable, read_edits
    from ggufkit.errors import InputError, UsageError
    from ggufkit.files import check_output
    from ggufkit.gguf_file.edit import write_edited
    from ggufkit.gguf_file.reader import read_header
    from ggufkit.inspection.typed import typed

    source = _model.resolve(model, kind="gguf", quiet=quiet or as_json)
    header = read_header(source)
    texts = list(settings or ())
    if chat_template:
        try:
            texts.append(f"tokenizer.chat_template={chat_template.read_text(encoding='utf-8')}")
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {chat_template}: {why(error)}") from error
    edits = read_edits(metadata, texts)
    removed = list(dict.fromkeys(remove or ()))
    for key in removed:
        check_changeable(key)
        if key not in header.metadata:
            near = difflib.get_close_matches(key, list(header.metadata), 1)
            raise UsageError(f"{source} has no key {key!r}", hint=f"there is {near[0]}" if near else None)
    touched = [*edits.values, *edits.texts]
    if both := set(touched).intersection(removed):
        raise UsageError(f"{min(both)} is to be set and to be removed", hint="leave one of the two away")
    if not touched and not removed:
        raise UsageError("nothing is to be changed", hint="--set KEY=VALUE, --remove KEY or --chat-template FILE")
    architecture = str(header.metadata.get("general.architecture", ""))
    known = {key: typed(header.metadata, key) for key in touched if key in header.metadata}
    values = {key: value for key, value in edits.applied_to(known, architecture).items() if key in touched}
    changes: list[tuple[str, object, object]] = [
        (key, header.metadata.get(key), value.value) for key, value in values.items()
    ]
    changes += [(key, header.metadata.get(key), None) for key in removed]
    if output is None and not dry_run:
        raise UsageError("where to write the copy?", hint=f"-o {source.stem}-edited.gguf")
    if output and output.is_dir():
        output = output / source.name
    if output:
        check_output(output, inputs=[source])
    if output and not dry_run:
        with _output.progress_bar(quiet=quiet or as_json) as progress:
            write_edited(header, output, values=values, without=removed, progress=progress)
    _show(changes, output if not dry_run else None, as_json=as_json, quiet=quiet)
    if not quiet and isinstance(count := header.metadata.get("split.count"), int) and count > 1:
        _output.note(f"this is the first of {count} parts: the others are needed beside it, and are as they were")


def _show(changes: list[tuple[str, object, object]], output: Path | None, *, as_json: bool, quiet: bool) -> None:
    from ggufkit.cli._inspect_view import printable, shortened

    if as_json:
        listed = [{"key": key, "before": before, "after": after} for key, before, after in changes]
        _output.print_json({"output": str(output) if output else None, "changes": listed})
        return
    if quiet:
        print(output or "")
        return
    for key, before, after in changes:
        sides = [printable(shortened(value)) if value is not None else "(none)" for value in (before, after)]
        print(f"{printable(key)}: {sides[0]} -> {sides[1]}")
    print(output or "nothing was written")
