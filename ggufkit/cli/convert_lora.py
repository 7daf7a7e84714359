"""`ggufkit convert-lora`: a PEFT adapter to a GGUF adapter."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from ggufkit.cli import _model, _options, _output


def command(
    adapter: Annotated[
        Path,
        typer.Argument(
            metavar="ADAPTER", help="The folder that PEFT saved: adapter_config.json, adapter_model.safetensors."
        ),
    ],
    base: Annotated[
        Path, typer.Option("--base", metavar="DIR", help="The checkpoint folder that the adapter was trained on.")
    ],
    output: _options.Output = None,
    outtype: Annotated[str, typer.Option(metavar="TYPE", help="f32, f16, bf16, q8_0 or auto.")] = "f32",
    as_json: _options.Json = False,
    quiet: _options.Quiet = False,
) -> None:
    """Convert a LoRA adapter to GGUF, by the rules that convert its base.

    Of the base only headers, config and tokenizer are read. Without -o the file is <folder>-lora-<TYPE>.gguf in the
    current folder; `llama-server --lora` and `ggufkit merge-lora` take it.
    """
    from ggufkit.cli._usage_errors import none_of
    from ggufkit.conversion import OutputType
    from ggufkit.conversion.adapters import convert_lora

    adapter = _model.resolve(adapter, kind="checkpoint", quiet=quiet or as_json)
    base = _model.resolve(base, kind="checkpoint", quiet=quiet or as_json)
    if outtype.lower() not in list(OutputType):
        raise none_of(outtype, list(OutputType), "--outtype")
    target = output
    if target is None or target.is_dir():
        target = (target or Path()) / f"{_model.name_of(adapter)}-lora-{outtype.upper()}.gguf"
    with _output.progress_bar(quiet=quiet or as_json) as progress:
        result = convert_lora(adapter, base, target, outtype=OutputType(outtype.lower()), progress=progress)
    if as_json:
        document = dataclasses.asdict(result)
        _output.print_json({**document, **{key: str(document[key]) for key in ("source", "base", "output")}})
        return
    for warning in result.warnings:
        _output.warn(warning)
    if quiet:
        print(result.output)
    else:
        ranks = ", ".join(map(str, result.ranks))
        print(
            f"{result.output}: {result.architecture} adapter, {result.modules} modules of rank {ranks}, "
            f"alpha {result.alpha:g}, {_output.size(result.bytes)} in {result.seconds:.2f} s"
        )
