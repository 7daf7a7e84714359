"""`ggufkit verify`: is this GGUF file what that checkpoint should become?"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggufkit.cli import _model, _options, _output

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ggufkit.evaluation.results import Verification

_COLOURS = {"exact": "green", "close": "green", "skipped": "yellow", "failed": "bold red"}


def command(
    model: Annotated[
        Path, typer.Argument(metavar="GGUF", help="The file to verify; of a split model, its first part.")
    ],
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="The checkpoint folder that it was converted from.")
    ],
    skip: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHECK[,CHECK...]",
            help="Leave out checks: metadata, tokens, chat-template, tensors, logits.",
            show_default=False,
        ),
    ] = None,
    lora: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            "--lora",
            metavar="GGUF DIR",
            help="A GGUF adapter and the PEFT folder it was made of: verify them together with the model.",
            show_default=False,
        ),
    ] = None,
    tokens: Annotated[
        int, typer.Option("--tokens", min=2, max=4096, help="Length of the longest prompt that logits are compared on.")
    ] = 160,
    threads: _options.Threads = None,
    as_json: _options.Json = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print only the verdict.")] = False,
) -> None:
    """Compare a GGUF file with its checkpoint: metadata, token ids, chat template, every tensor, logits.

    Exit code 7 if one of the checks fails. Works on quantized and split files as well; what cannot be checked here
    (logits without torch and transformers, say) is skipped, and said.
    """
    from ggufkit.errors import UsageError
    from ggufkit.evaluation.verify import verify

    if Path(model).is_dir() and Path(checkpoint).is_file():
        raise UsageError(f"{model} is a folder: the GGUF file comes first", hint=f"ggufkit verify {checkpoint} {model}")
    model = _model.resolve(model, kind="gguf", quiet=quiet or as_json)
    checkpoint = _model.resolve(checkpoint, kind="checkpoint", quiet=quiet or as_json)
    with _output.progress_bar(quiet=quiet or as_json) as progress:
        result = verify(
            model,
            checkpoint,
            skip=[name for names in skip or () for name in names.split(",") if name],
            lora=lora,
            prompt_tokens=tokens,
            threads=threads,
            progress=progress,
        )
    show(result, as_json=as_json, quiet=quiet)
    result.raise_for_failure()


def show(result: "Verification", *, as_json: bool, quiet: bool) -> None:
    """Print a verification: the verdict alone, one JSON document, or a table with what was found."""
    if as_json:
        _output.print_json(document(result))
    elif quiet:
        print(result.verdict.value)
    else:
        _output.stdout().print(_table(result))
        for check in result.checks:
            for line in check.details:
                print(f"  {check.name}: {_printable(line)}")
        print(f"{result.model}: {result.verdict.value} ({result.architecture}, in {result.seconds:.1f} s)")


def document(result: "Verification") -> dict[str, Any]:
    """Give a verification as what `--json` prints."""
    return {
        "model": str(result.model),
        "checkpoint": str(result.checkpoint),
        "architecture": result.architecture,
        "verdict": result.verdict.value,
        "seconds": result.seconds,
        "checks": [{**dataclasses.asdict(check), "grade": check.grade.value} for check in result.checks],
    }


def _table(result: "Verification") -> "RenderableType":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("check", no_wrap=True)
    table.add_column("grade", no_wrap=True)
    table.add_column("found", overflow="fold")
    for check in result.checks:
        table.add_row(
            check.name, Text(check.grade.value, style=_COLOURS[check.grade.value]), Text(_printable(check.summary))
        )
    return table


def _printable(text: str) -> str:
    """Show what could move the cursor: names come from strangers' files."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
