"""`ggufkit merge-lora`: an adapter added to the weights of its base."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from ggufkit.cli import _model, _options, _output
from ggufkit.counting import counted


def command(
    base: Annotated[
        Path, typer.Argument(metavar="BASE", help="A checkpoint folder, or a GGUF file of F32, F16 or BF16.")
    ],
    adapter: Annotated[
        Path, typer.Argument(metavar="ADAPTER", help="For a checkpoint a PEFT folder, for a GGUF file a GGUF adapter.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder, or the GGUF file, to write.")],
    other_base: Annotated[
        bool, typer.Option("--other-base", help="Merge even if the adapter was made for another base.")
    ] = False,
    as_json: _options.Json = False,
    quiet: _options.Quiet = False,
) -> None:
    """Merge a LoRA adapter into the model that it changes.

    The sum is computed in float64 and rounded once, to the type of the weight. Of a checkpoint, shards, headers and all
    other files stay as they are.
    """
    from ggufkit.conversion.adapters import merge_lora

    base = _model.resolve(base, quiet=quiet or as_json)
    adapter = _model.resolve(adapter, quiet=quiet or as_json)
    with _output.progress_bar(quiet=quiet or as_json) as progress:
        result = merge_lora(base, adapter, output, other_base=other_base, progress=progress)
    if as_json:
        document = dataclasses.asdict(result)
        _output.print_json({**document, **{key: str(document[key]) for key in ("base", "adapter", "output")}})
        return
    for warning in result.warnings:
        _output.warn(warning)
    if quiet:
        print(result.output)
    else:
        replaced = f", {result.replaced} replaced" if result.replaced else ""
        print(
            f"{result.output}: {result.merged} of {counted(result.tensors, 'tensor')} changed{replaced}, "
            f"{_output.size(result.bytes)} in {result.seconds:.2f} s"
        )
