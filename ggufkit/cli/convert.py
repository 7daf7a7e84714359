"""`ggufkit convert`: a checkpoint folder to a GGUF file."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggufkit.cli import _model, _options, _output
from ggufkit.cli import verify as _verify
from ggufkit.counting import counted

if TYPE_CHECKING:
    from ggufkit.checkpoints import SourceQuantization
    from ggufkit.conversion import ConversionPlan, ConversionResult
    from ggufkit.evaluation.results import Verification

OUTTYPES = ("f16", "bf16", "f32", "q8_0", "auto", "source")
CONVERTERS = ("auto", "native", "llama.cpp")


def _one_of(names: tuple[str, ...]) -> Any:
    """Check a choice without importing the enum behind it, which would load numpy for a mere `--help`."""

    def check(value: str) -> str:
        if value.lower() not in names:
            raise _options.NotAChoice(value, names)
        return value.lower()

    return check


def _complete(names: tuple[str, ...]) -> Any:
    return lambda incomplete: [name for name in names if name.startswith(incomplete.lower())]


def command(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="A checkpoint folder: config.json, weights, tokenizer; or owner/repo.")
    ],
    output: _options.Output = None,
    outtype: Annotated[
        str,
        typer.Option(
            metavar="TYPE",
            callback=_one_of(OUTTYPES),
            autocompletion=_complete(OUTTYPES),
            help="f16, bf16, f32, q8_0; auto: the 16-bit type of the checkpoint; or source: the same, but weights that"
            " others quantized keep their integers wherever a GGUF type holds them.",
        ),
    ] = "f16",
    converter: Annotated[
        str,
        typer.Option(
            metavar="WHO",
            callback=_one_of(CONVERTERS),
            autocompletion=_complete(CONVERTERS),
            help="native, llama.cpp (its converter, in a child process; needs ggufkit[hf]), or auto.",
        ),
    ] = "auto",
    mtp: Annotated[
        bool,
        typer.Option(
            "--mtp/--no-mtp",
            help="Keep blocks of multi-token prediction where llama.cpp loads them.",
        ),
    ] = True,
    pre: Annotated[
        str | None,
        typer.Option(
            "--pre",
            metavar="NAME",
            help="llama.cpp's name for how the tokenizer cuts text (its pre-tokenizer), instead of finding it.",
            show_default=False,
        ),
    ] = None,
    tokenizer_from: Annotated[
        Path | None,
        typer.Option(
            "--tokenizer-from",
            metavar="DIR",
            help="Read the tokenizer's files in another folder.",
            show_default=False,
        ),
    ] = None,
    vocab_only: Annotated[
        bool, typer.Option("--vocab-only", help="Write the vocabulary alone; the folder needs no weights.")
    ] = False,
    metadata: Annotated[
        Path | None,
        typer.Option(
            "--metadata",
            metavar="FILE",
            help="JSON with metadata that takes the place of the folder's, as llama.cpp's converter reads it.",
            show_default=False,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set a metadata key, such as general.author=Ada; of an unknown key say the type: KEY=u32:7.",
            show_default=False,
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare the result with the checkpoint, as `ggufkit verify` does.")
    ] = False,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code", help="Let llama.cpp's converter run Python code that the model folder brings."
        ),
    ] = False,
    threads: _options.Threads = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be written, and read no weights.")
    ] = False,
    as_json: _options.Json = False,
    quiet: _options.Quiet = False,
) -> None:
    """Convert a Hugging Face checkpoint to GGUF.

    Without -o the file is <folder>-<TYPE>.gguf in the current folder. The output is whole or absent: whatever
    happens on the way, nothing half-written stands under its name.
    """
    from ggufkit.checkpoints import read_config
    from ggufkit.conversion import (
        Converter,
        OutputType,
        TokenizerOptions,
        convert,
        convert_vocabulary,
        open_plan,
        read_edits,
        type_of,
        who_converts,
    )
    from ggufkit.errors import InputError, UsageError
    from ggufkit.files import check_output

    source = _model.resolve(source, kind="checkpoint", quiet=quiet or as_json)
    if tokenizer_from is not None and not tokenizer_from.is_dir():
        raise InputError(f"no such folder: {tokenizer_from}")
    tokenizer = TokenizerOptions(tokenizer_from, pre) if tokenizer_from or pre else None
    if vocab_only:
        if dry_run:
            raise UsageError("--vocab-only writes the vocabulary alone: there is nothing to be shown by --dry-run")
        _show(convert_vocabulary(source, _target(output, source, "vocab"), tokenizer=tokenizer), as_json, quiet)
        return
    if dry_run and verify:
        raise UsageError("--verify compares what was written, and --dry-run writes nothing")
    edits = read_edits(metadata, settings or ()) if metadata or settings else None
    wanted = OutputType(outtype)
    config = read_config(source)
    who = who_converts(config, Converter(converter))
    if dry_run:
        if who is Converter.LLAMA_CPP:
            raise UsageError("--dry-run needs a native conversion, and no spec of ours converts this checkpoint")
        with open_plan(source, wanted, mtp=mtp, tokenizer=tokenizer, edits=edits, keep=wanted.keeps) as plan:
            target = _target(output, source, plan.output_type)
            check_output(target, inputs=[source, *source.iterdir()])
            _show_plan(plan, target, as_json=as_json, quiet=quiet)
        return
    if who is Converter.LLAMA_CPP and not quiet:
        reason = "as asked" if converter == Converter.LLAMA_CPP else f"{config.architecture}: no spec of ours fits it"
        _output.note(f"using llama.cpp's converter: {reason}")
    if wanted is OutputType.AUTO:
        wanted = type_of(source)
    target = _target(output, source, wanted)
    with _output.progress_bar(quiet=quiet or as_json) as progress:
        result = convert(
            source,
            target,
            outtype=wanted,
            converter=who,
            mtp=mtp,
            tokenizer=tokenizer,
            edits=edits,
            trust_remote_code=trust_remote_code,
            threads=threads,
            progress=progress,
        )
        found = None
        if verify:
            from ggufkit.evaluation.verify import verify as compare

            found = compare(target, source, tokenizer=tokenizer, edits=edits, threads=threads, progress=progress)
    _show(result, as_json, quiet, found)
    if found:
        found.raise_for_failure()


def _show(result: "ConversionResult", as_json: bool, quiet: bool, verification: "Verification | None" = None) -> None:
    if as_json:
        found = {"verification": _verify.document(verification)} if verification else {}
        _output.print_json({**_document(result), **found})
    elif quiet:
        print(result.output)
    else:
        _show_result(result)
        if verification:
            _verify.show(verification, as_json=False, quiet=False)


def _target(output: Path | None, source: Path, outtype: str) -> Path:
    """Name the file to write: `output`, or one named after the checkpoint in the folder `output`, or in this one."""
    if output and not output.is_dir():
        return output
    return (output or Path()) / f"{_name(source.resolve())}-{outtype.upper()}.gguf"


def _name(folder: Path) -> str:
    """Name a model after its folder; a snapshot in Hugging Face's cache is called by its hash, its model further up."""
    if folder.parent.name == "snapshots" and folder.parents[1].name.startswith("models--"):
        return folder.parents[1].name.rpartition("--")[2]
    return folder.name


def _show_plan(plan: "ConversionPlan", output: Path, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        _output.print_json(
            {
                "output": str(output),
                "architecture": plan.spec.name,
                "outtype": plan.output_type.value,
                "bytes": plan.layout.size,
                "quantization": _quantization(plan.checkpoint.quantization, plan.kept),
                "warnings": plan.warnings,
                "tensors": [
                    {"name": t.name, "shape": t.shape, "type": t.type.name, "offset": t.offset, "bytes": t.size}
                    for t in plan.layout.tensors
                ],
            }
        )
        return
    if quiet:
        print(output)
    else:
        for tensor in plan.layout.tensors:
            print(f"{tensor.name:<40} {tensor.type.name:<5} {' x '.join(map(str, tensor.shape))}")
        for warning in plan.warnings:
            _output.warn(warning)
        _show_quantization(plan.checkpoint.quantization, plan.kept)
        print(
            f"{output}: {counted(len(plan.layout.tensors), 'tensor')}, {_output.size(plan.layout.size)} "
            f"({plan.layout.size:,} bytes), architecture {plan.spec.name}; nothing was written"
        )


def _show_result(result: "ConversionResult") -> None:
    for warning in result.warnings:
        _output.warn(warning)
    _show_quantization(result.quantization, result.kept)
    types = ", ".join(f"{count} {name}" for name, count in sorted(result.tensor_types.items()))
    print(
        f"{result.output}: {result.architecture}, {counted(result.tensors, 'tensor')} ({types}), "
        f"{_output.size(result.size_before)} -> {_output.size(result.size_after)} "
        f"in {result.seconds:.2f} s ({result.bytes_per_second / 1e6:,.0f} MB/s)"
    )


def _show_quantization(found: "SourceQuantization | None", kept: Mapping[str, int]) -> None:
    """Say in one line what others had done to the weights, and what became of it."""
    if found:
        said = [f"{count} kept as {name}" for name, count in kept.items()]
        if left := found.weights - sum(kept.values()):
            said.append(f"{left} dequantized")
        print(f"{found}; {', '.join(said)}")


def _quantization(found: "SourceQuantization | None", kept: Mapping[str, int]) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "scheme": found.scheme,
        "format": found.format,
        "quantized_tensors": found.weights,
        "dropped": {reason: list(names) for reason, names in found.dropped.items()},
        "kept": dict(kept),
    }


def _document(result: "ConversionResult") -> dict[str, Any]:
    return {
        "source": str(result.source),
        "output": str(result.output),
        "converter": result.converter.value,
        "architecture": result.architecture,
        "outtype": result.output_type.value,
        "tensors": result.tensors,
        "tensor_types": dict(result.tensor_types),
        "bytes_before": result.size_before,
        "bytes_after": result.size_after,
        "seconds": result.seconds,
        "quantization": _quantization(result.quantization, result.kept),
        "warnings": result.warnings,
    }
