"""`ggufkit check`: is this model fit to be used?"""

import dataclasses
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggufkit.cli import _options, _output

if TYPE_CHECKING:
    from ggufkit.inspection.check import CheckResult


def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            show_default=False,
            help="A GGUF file (of a split model, the first), a checkpoint folder, or owner/repo[:QUANT] on the hub.",
        ),
    ],
    headers_only: Annotated[
        bool, typer.Option("--headers-only", help="Do not read the weights, which takes as long as copying the file.")
    ] = False,
    as_json: _options.Json = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print only fit, unfit or unsafe.")] = False,
) -> None:
    """Tell whether a model is fit to be used, and what is wrong with it.

    Exit code 0: fit; 3: unfit; 4: unsafe. Nothing of the model is run in this process: llama.cpp tries it in another,
    and code that a folder brings is never run.
    """
    from ggufkit.cli import _model
    from ggufkit.findings import exit_code
    from ggufkit.inspection.check import check

    path = _model.resolve(model, kind="any", quiet=quiet or as_json)
    with _output.progress_bar(quiet=quiet or as_json) as progress:
        result = check(path, weights=not headers_only, progress=progress)
    if as_json:
        _output.print_json(document(result, called=model))
    elif quiet:
        print(_verdict(result))
    else:
        _show(result, called=model)
    if code := exit_code(result.findings):
        sys.stdout.flush()
        sys.exit(code)


def document(result: "CheckResult", *, called: str) -> dict[str, Any]:
    """Give the result as what `--json` prints."""
    return {
        "model": called,
        "kind": result.kind,
        "verdict": _verdict(result),
        "weights_read": result.weights,
        "findings": [
            {**dataclasses.asdict(finding), "severity": finding.severity.name.lower()} for finding in result.findings
        ],
    }


def _verdict(result: "CheckResult") -> str:
    return "fit" if result.is_fit else result.severity.name.lower()


def _show(result: "CheckResult", *, called: str) -> None:
    for finding in sorted(result.findings, key=lambda finding: -finding.severity):
        where = "" if finding.where == str(result.path) or finding.where in finding.what else f"{finding.where}: "
        print(f"{finding.severity.name.lower()}: {_printable(where + finding.what)}")
        if finding.hint:
            print(f"  hint: {_printable(finding.hint)}")
    rest = "" if result.weights else " (the weights were not read)"
    print(f"{_printable(called)}: {_verdict(result)}{rest}")


def _printable(text: str) -> str:
    """Show what could move the cursor: names come from strangers' files."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
