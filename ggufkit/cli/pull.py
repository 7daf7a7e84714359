"""`ggufkit pull`: fetch a model from the hub, the right files of it, whole and verified."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ggufkit.cli import _options, _output
from ggufkit.counting import counted

if TYPE_CHECKING:
    from ggufkit.checkpoints.hub_pull import PlannedPull, Pulled

_EXAMPLE = "for example: ggufkit pull owner/repo:Q4_K_M"


def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            show_default=False,
            help="owner/repo of a checkpoint, or owner/repo:QUANT of a GGUF model; QUANT in any case. [Q4_K_M]",
        ),
    ],
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", show_default=False, help="Fetch the files that match, such as '*.json'."),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", show_default=False, help="But not the files that match.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(metavar="REV", show_default=False, help="A branch, tag or commit. [main]")
    ] = None,
    local_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", show_default=False, help="Write into this folder instead of Hugging Face's cache."),
    ] = None,
    mmproj: Annotated[
        bool, typer.Option("--mmproj", help="Fetch the multimodal projector of a GGUF repository too.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be fetched, and fetch nothing.")] = False,
    as_json: _options.Json = False,
    quiet: _options.Quiet = False,
) -> None:
    """Fetch a model from the hub; print where it is.

    An interrupted download goes on where it stopped. Every file is compared with the hash that the hub gives for it,
    also when it was here already, and stands under its name only when it is right. HF_ENDPOINT, HF_HOME, HF_TOKEN and
    HF_HUB_OFFLINE mean what they mean to `hf`.
    """
    from ggufkit.checkpoints.hub import ModelName, Repository, is_offline, model_name
    from ggufkit.checkpoints.hub_pull import PullOptions, find_cached, plan_pull, pull
    from ggufkit.checkpoints.own_models import remember
    from ggufkit.errors import UsageError

    name = model_name(model)
    if name is None:
        raise UsageError(f"{model!r} is no name of a model on the hub", hint=_EXAMPLE)
    if revision:
        if name.repository.revision not in {None, revision}:
            raise UsageError(f"two revisions are given: {name.repository.revision} and {revision}")
        name = ModelName(Repository(name.repository.id, revision), name.quantization, name.explicit)
    if is_offline() and not local_dir and not include and (here := find_cached(name)):
        _output.note("HF_HUB_OFFLINE: it is in the cache, and was not compared with the hub")
        if as_json:
            _output.print_json({"repository": str(name.repository), "path": str(here), "bytes_fetched": 0})
        else:
            print(here)
        return
    options = PullOptions(
        include=tuple(include or ()), exclude=tuple(exclude or ()), local_folder=local_dir, projector=mmproj
    )
    plan = plan_pull(name, options)
    if dry_run:
        _show_plan(plan, as_json=as_json, quiet=quiet)
        return
    with _output.progress_bar(quiet=quiet or as_json) as progress:
        pulled = pull(plan, options, progress=progress)
    if local_dir:
        remember(local_dir)
    _show(pulled, as_json=as_json, quiet=quiet)


def _show_plan(plan: "PlannedPull", *, as_json: bool, quiet: bool) -> None:
    if as_json:
        _output.print_json(
            {
                "repository": plan.listing.repository.id,
                "commit": plan.listing.commit,
                "bytes": plan.size,
                "files": [{"path": file.path, "bytes": file.size, "sha256": file.sha256} for file in plan.files],
            }
        )
        return
    for file in plan.files:
        print(file.path if quiet else f"{_output.size(file.size):>10}  {file.path}")
    if not quiet:
        _output.note(
            f"{counted(len(plan.files), 'file')}, {_output.size(plan.size)} ({plan.size:,} bytes); nothing was fetched"
        )


def _show(pulled: "Pulled", *, as_json: bool, quiet: bool) -> None:
    if as_json:
        _output.print_json(
            {
                "repository": pulled.name,
                "commit": pulled.commit,
                "path": str(pulled.path),
                "mmproj": str(pulled.projector) if pulled.projector else None,
                "files": [str(path) for path in pulled.files],
                "bytes": pulled.size,
                "bytes_fetched": pulled.fetched,
            }
        )
        return
    print(pulled.path)
    if quiet:
        return
    verified = (
        f"the hub gives no hash of {', '.join(pulled.without_hash)}" if pulled.without_hash else "every hash is right"
    )
    _output.note(
        f"{counted(len(pulled.files), 'file')}, {_output.size(pulled.size)},"
        f" {_output.size(pulled.fetched)} of it fetched; {verified}"
    )
    if pulled.projector:
        _output.note(f"projector: {pulled.projector}")
    elif pulled.other_projectors:
        _output.note(f"the repository also holds {', '.join(pulled.other_projectors)}: --mmproj fetches one")
