"""`ggufkit rm`: remove a model from this machine."""

import sys
from typing import Annotated

import typer

from ggufkit.cli import _options, _output
from ggufkit.cli import list as _list


def command(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", show_default=False, help="As `list` prints it.")],
    where: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="|".join(_list.PLACES), show_default=False, help="Where, if several places have it."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go, and remove nothing.")] = False,
    as_json: _options.Json = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing.")] = False,
) -> None:
    """Remove models from this machine.

    What no other model needs goes with them; only what is shown goes, and it asks first. owner/repo removes all that
    the cache has of a repository, owner/repo:QUANT one of its models.
    """
    from ggufkit.errors import UsageError
    from ggufkit.exports.installed import find, remove

    place = _list.parse_place(where)
    models = list({id(model): model for name in names for model in find(name, place)}.values())
    silent = quiet or as_json
    if not silent:
        _list.show(models)
    if dry_run:
        if as_json:
            _output.print_json({"removed": [], "would_remove": [_list.document(model) for model in models]})
        return
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("nobody is there to be asked", hint="--yes removes without asking")
        if not typer.confirm("remove them?" if len(models) > 1 else "remove it?", err=True):
            _output.note("nothing was removed")
            return
    removed = remove(models)
    if as_json:
        listed = [{"name": r.name, "bytes_freed": r.freed, "files": [str(path) for path in r.files]} for r in removed]
        _output.print_json({"removed": listed})
    elif not quiet:
        print(f"removed {len(removed)}, {_output.size(sum(each.freed for each in removed))} are free now")
