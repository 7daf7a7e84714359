"""`ggufkit push` and `ggufkit export hub`: models to a repository on the hub, with a card."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ggufkit.cli import _options, _output
from ggufkit.counting import counted

if TYPE_CHECKING:
    from ggufkit.exports.hub import PlannedPush, Pushed

_EXAMPLE = "for example: ggufkit push model-Q4_K_M.gguf model-Q8_0.gguf owner/repo"


def command(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL... OWNER/REPO",
            show_default=False,
            help="GGUF files, or folders of them, and the repository; it is made if it is not there.",
        ),
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository a private one, if it is new.")
    ] = False,
    base: Annotated[
        str | None,
        typer.Option(metavar="OWNER/REPO", show_default=False, help="The base model, where the files do not tell."),
    ] = None,
    card: Annotated[
        Path | None, typer.Option(metavar="FILE", show_default=False, help="Use this model card instead.")
    ] = None,
    message: Annotated[
        str | None, typer.Option("-m", "--message", show_default=False, help="The message of the commit.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", show_default=False, help="The branch to upload to. [main]")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the card, and upload nothing.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            show_default=False,
            help="With --dry-run: where the card goes; - is stdout. [README.md]",
        ),
    ] = None,
    as_json: _options.Json = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print only the address.")] = False,
) -> None:
    """Upload GGUF models to the hub with a model card.

    The card tells what they were made of, sizes, what was measured (*.divergence.json beside the files), how to run
    them, and hashes. A run that was interrupted goes on; a card that is not ggufkit's own stays. HF_TOKEN and
    HF_ENDPOINT mean what they mean to `hf`.
    """
    from ggufkit.checkpoints.hub import Repository, repository
    from ggufkit.cli import _model
    from ggufkit.errors import InputError, UsageError
    from ggufkit.exports.hub import plan_push, push

    *models, place = arguments
    target = repository(place)
    if not models or target is None or Path(place).is_file():
        raise UsageError("name the models, then the repository that they go to", hint=_EXAMPLE)
    base_repository = repository(base) if base is not None else None
    if base is not None and base_repository is None:
        raise UsageError(f"--base {base!r} is no repository", hint="its form is owner/repo")
    target = Repository(target.id, revision or target.revision)
    own_card = None
    if card:
        try:
            own_card = card.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {card}: {getattr(error, 'strerror', None) or error}") from error
    silent = quiet or as_json
    paths = [
        Path(model) if Path(model).is_dir() else _model.resolve(model, kind="gguf", quiet=silent) for model in models
    ]
    with _output.progress_bar(quiet=silent) as progress:
        plan = plan_push(
            paths,
            target,
            base=base_repository.id if base_repository else None,
            card=own_card,
            progress=progress,
        )
    if dry_run:
        _show_plan(plan, _write_card(plan, output), as_json=as_json, quiet=quiet)
    else:
        bars = sys.stderr.isatty() and not silent
        with _output.progress_bar(quiet=silent or bars) as progress:
            pushed = push(plan, private=private, message=message, bars=bars, progress=progress)
        _show(plan, pushed, as_json=as_json, quiet=quiet)
    if plan.base is None and not silent:
        _output.warn("the card names no base model, because the files do not: --base OWNER/REPO says it")


def _write_card(plan: "PlannedPush", output: Path | None) -> Path | None:
    """Write the card where it was asked for; it takes the place of none but an older one of ours."""
    from ggufkit.errors import OutputError
    from ggufkit.exports.model_card import MARK
    from ggufkit.files import check_output, write_atomically

    if output == Path("-"):
        print(plan.card, end="")
        return None
    path = output or Path("README.md")
    path = path / "README.md" if path.is_dir() else path
    check_output(path, inputs=plan.files.values())
    if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        raise OutputError(f"{path} is there, and is no card that ggufkit wrote", hint="name another file with -o")
    write_atomically(path, plan.card.encode())
    return path


def _show_plan(plan: "PlannedPush", card: Path | None, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        _output.print_json(
            {
                "repository": plan.repository.id,
                "base_model": plan.base,
                "card": str(card) if card else None,
                "bytes": plan.size,
                "files": [
                    {"name": name, "path": str(path), "sha256": plan.hashes[name]} for name, path in plan.files.items()
                ],
            }
        )
    elif card:
        print(card)
    if not as_json and not quiet:
        _output.note(f"{counted(len(plan.files), 'file')}, {_output.size(plan.size)}, would go to {plan.repository}")


def _show(plan: "PlannedPush", pushed: "Pushed", *, as_json: bool, quiet: bool) -> None:
    if as_json:
        _output.print_json(
            {
                "repository": plan.repository.id,
                "url": pushed.url,
                "uploaded": pushed.uploaded,
                "already_there": pushed.already_there,
                "card_kept": pushed.card_kept,
            }
        )
        return
    print(pushed.url or f"{plan.repository} has all of it already")
    if not quiet:
        there = f", {len(pushed.already_there)} were there already" if pushed.already_there else ""
        _output.note(f"{counted(len(pushed.uploaded), 'file')} uploaded{there}")
        if pushed.card_kept:
            _output.note("the repository's own model card was left as it is; --card FILE replaces it")
