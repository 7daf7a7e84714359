"""`ggufkit quantize`: a GGUF model, or a checkpoint folder, to a smaller GGUF."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggufkit.cli import _from_checkpoint, _options, _output

if TYPE_CHECKING:
    from ggufkit.progress import Progress
    from ggufkit.quantization.plan import Fallback, QuantizationPlan, QuantizeOptions
    from ggufkit.quantization.quantize import QuantizationResult
    from ggufkit.quantization.types import QuantizationType

_EXAMPLE = "for example: ggufkit quantize Q4_K_M model-F16.gguf"
_SHOWN_FALLBACKS = 5


def _complete(incomplete: str) -> list[str]:
    """Offer types, and the files and folders that could be a source."""
    from ggufkit.quantization.types import TYPES

    done, comma, last = incomplete.rpartition(",")
    names = [f"{done}{comma}{kind.name}" for kind in TYPES if kind.name.startswith(last.upper())]
    folder = Path(incomplete).parent if not incomplete.endswith("/") else Path(incomplete)
    with contextlib.suppress(OSError):
        paths = [path for path in folder.iterdir() if str(path).startswith(incomplete)]
        names += sorted(str(path) for path in paths if path.suffix == ".gguf" or path.is_dir())
    return names


def command(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TYPE[,TYPE...] SRC",
            show_default=False,
            autocompletion=_complete,
            help="The types to make, such as Q4_K_M, and a GGUF file or a checkpoint folder; in either order.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="A file, or a folder for several types."),
    ] = None,
    imatrix: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Importance matrix: which weights matter, from llama-imatrix.")
    ] = None,
    allow_requantize: Annotated[
        bool, typer.Option("--allow-requantize", help="Accept a source that is quantized already; it loses more.")
    ] = False,
    pure: Annotated[bool, typer.Option("--pure", help="Give every tensor the same type, mix nothing.")] = False,
    leave_output_tensor: Annotated[
        bool, typer.Option("--leave-output-tensor", help="Leave output.weight as it is.")
    ] = False,
    output_tensor_type: Annotated[
        str | None, typer.Option(metavar="TYPE", help="The tensor type of output.weight.")
    ] = None,
    token_embedding_type: Annotated[
        str | None, typer.Option(metavar="TYPE", help="The tensor type of the token embeddings.")
    ] = None,
    tensor_type: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REGEX=TYPE",
            show_default=False,
            help="The type of the tensors whose name matches, such as attn_v=q8_0. May be given several times.",
        ),
    ] = None,
    threads: _options.Threads = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show sizes and types, and write nothing.")] = False,
    list_types: Annotated[bool, typer.Option("--list", help="List all types and leave.")] = False,
    as_json: _options.Json = False,
    quiet: _options.Quiet = False,
) -> None:
    """Quantize a model: make it several times smaller for a little loss.

    SRC is a GGUF file in F16, BF16 or F32, or a checkpoint folder, which is converted on the way. Without -o,
    model-F16.gguf becomes model-Q4_K_M.gguf beside it, and a checkpoint a file in the current folder.
    """
    from ggufkit.errors import InputError
    from ggufkit.quantization.plan import QuantizeOptions
    from ggufkit.quantization.types import tensor_type as parse_tensor_type

    if list_types:
        _print_types(as_json=as_json)
        return
    kinds, source = sort_arguments(arguments or [])
    options = QuantizeOptions(
        threads=threads,
        imatrix=imatrix,
        allow_requantize=allow_requantize,
        pure=pure,
        leave_output_tensor=leave_output_tensor,
        output_tensor_type=parse_tensor_type(output_tensor_type) if output_tensor_type else None,
        token_embedding_type=parse_tensor_type(token_embedding_type) if token_embedding_type else None,
        tensor_types=tuple(_pattern(text) for text in tensor_type or []),
    )
    if source is None:
        source = _only_source()
        if not quiet:
            _output.note(f"quantizing {source}, the only unquantized model in this folder")
    if not source.exists():
        raise InputError(f"no such file or folder: {source}", hint=_EXAMPLE)
    jobs = output_paths(source, kinds, output)
    if dry_run:
        _show_plans(source, jobs, _plans(source, jobs, options), as_json=as_json, quiet=quiet)
    else:
        with _output.progress_bar(quiet=quiet or as_json) as progress:
            results = _results(source, jobs, options, progress)
        _show_results(source, results, as_json=as_json, quiet=quiet)


def _plans(
    source: Path, jobs: Sequence[tuple["QuantizationType", Path]], options: "QuantizeOptions"
) -> list["QuantizationPlan"]:
    from ggufkit.quantization.plan import plan

    kinds = [kind for kind, _ in jobs]
    if source.is_dir():
        return _from_checkpoint.plans_of(source, kinds, options)
    return [plan(source, kind, options) for kind in kinds]


def _results(
    source: Path, jobs: Sequence[tuple["QuantizationType", Path]], options: "QuantizeOptions", progress: "Progress"
) -> tuple["QuantizationResult", ...]:
    from ggufkit.quantization.quantize import quantize_all

    if source.is_dir():
        with _from_checkpoint.converted(source, jobs, options, progress) as model:
            return quantize_all(model, jobs, options, progress=progress)
    return quantize_all(source, jobs, options, progress=progress)


def sort_arguments(arguments: Sequence[str]) -> tuple[list["QuantizationType"], Path | None]:
    """Tell types from the source, in whatever order they come; None where no source is named.

    Raises:
        UsageError: no type, an unknown type, or more than one source.
    """
    from ggufkit.errors import UsageError
    from ggufkit.quantization.types import find_type, quantization_type

    def names_types(argument: str) -> bool:
        return any(find_type(part) for part in argument.split(","))

    def is_path(argument: str) -> bool:
        return argument.lower().endswith(".gguf") or os.sep in argument or Path(argument).exists()

    types = [argument for argument in arguments if names_types(argument)]
    others = [argument for argument in arguments if not names_types(argument)]
    if not others and len(types) > 1:
        # A folder may be named as a type is.
        others = [argument for argument in types if Path(argument).exists()][:1]
        types = [argument for argument in types if argument not in others]
    paths = [argument for argument in others if is_path(argument)]
    types += [argument for argument in others if argument not in paths]
    if len(paths) > 1:
        raise UsageError(
            f"one source at a time, not {' and '.join(paths)}",
            hint=f"{_EXAMPLE} -o smaller.gguf (the output goes to -o)",
        )
    kinds = [quantization_type(part) for argument in types for part in argument.split(",") if part]
    if not kinds:
        raise UsageError(
            f"no type is given for {paths[0]}" if paths else "no type and no source are given",
            hint=f"{_EXAMPLE}; --list shows all types",
        )
    return list(dict.fromkeys(kinds)), Path(paths[0]) if paths else None


def output_paths(
    source: Path, kinds: Sequence["QuantizationType"], output: Path | None
) -> list[tuple["QuantizationType", Path]]:
    """Choose the file that each type is written to.

    Raises:
        UsageError: one file is named for several types.
    """
    from ggufkit.errors import UsageError
    from ggufkit.quantization.names import output_path

    if output is None:
        return [(kind, output_path(source, kind)) for kind in kinds]
    if output.is_dir() or str(output).endswith(os.sep):
        return [(kind, output / output_path(source, kind).name) for kind in kinds]
    if len(kinds) > 1:
        raise UsageError(f"{len(kinds)} types cannot go to one file: {output}", hint=f"mkdir -p {output}; -o {output}/")
    return [(kinds[0], output)]


def _only_source() -> Path:
    """Find the one unquantized model in the current folder, so that `ggufkit quantize Q4_K_M` is enough."""
    from ggufkit.errors import GgufFileError, UsageError
    from ggufkit.gguf_file.reader import read_header

    found = []
    for path in sorted(Path().glob("*.gguf")):
        with contextlib.suppress(GgufFileError):
            header = read_header(path)
            if header.metadata.get("general.file_type") in {0, 1, 32}:
                found.append(path)
    if len(found) != 1:
        said = f"{len(found)} here are unquantized: {', '.join(map(str, found))}" if found else "none is in this folder"
        raise UsageError(f"no source is given, and {said}", hint=_EXAMPLE)
    return found[0]


def _pattern(text: str) -> tuple[str, Any]:
    from ggufkit.errors import UsageError
    from ggufkit.quantization.types import tensor_type

    pattern, equals, name = text.partition("=")
    if not pattern or not equals or not name:
        raise UsageError(
            f"--tensor-type {text!r} is not of the form REGEX=TYPE", hint="such as --tensor-type attn_v=q8_0"
        )
    return pattern, tensor_type(name)


def _show_plans(
    source: Path,
    jobs: Sequence[tuple["QuantizationType", Path]],
    plans: Sequence["QuantizationPlan"],
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    if as_json:
        documents = [_plan_document(source, path, plan) for (_, path), plan in zip(jobs, plans, strict=True)]
        _output.print_json({"dry_run": True, "results": documents})
        return
    for (_, path), plan in zip(jobs, plans, strict=True):
        if quiet:
            print(path)
            continue
        _print_summary(path, plan)
    if not quiet:
        print("nothing was written")


def _show_results(source: Path, results: Sequence["QuantizationResult"], *, as_json: bool, quiet: bool) -> None:
    if as_json:
        _output.print_json({"dry_run": False, "results": [_result_document(source, result) for result in results]})
        return
    for result in results:
        if quiet:
            print(result.output)
        else:
            _print_summary(result.output, result)


def _print_summary(output: Path, it: "QuantizationPlan | QuantizationResult") -> None:
    seconds = getattr(it, "seconds", None)
    print(
        f"{output}: {_output.size(it.bytes_before)} -> {_output.size(it.bytes_after)}, "
        f"{it.bits_per_weight_before:.2f} -> {it.bits_per_weight_after:.2f} bits per weight"
        + (f", in {seconds:.2f} s" if seconds is not None else "")
    )
    print(f"  tensors: {', '.join(f'{count} {name}' for name, count in it.tensor_types.items())}")
    for line in _fallback_lines(it.fallbacks):
        print(f"  {line}")
    if it.without_importance:
        print(f"  without importance data: {', '.join(it.without_importance)}")


def _fallback_lines(fallbacks: Sequence["Fallback"]) -> Iterator[str]:
    """Say which tensors got another type; many of one kind are told as one."""
    groups: dict[tuple[str, str, int], list[str]] = {}
    for fallback in fallbacks:
        groups.setdefault((fallback.wanted.name, fallback.got.name, fallback.columns), []).append(fallback.tensor)
    for (wanted, got, columns), names in groups.items():
        shown = ", ".join(names[:_SHOWN_FALLBACKS])
        more = f" and {len(names) - _SHOWN_FALLBACKS} more" if len(names) > _SHOWN_FALLBACKS else ""
        yield f"{got} instead of {wanted}, whose blocks do not divide rows of {columns}: {shown}{more}"


def _plan_document(source: Path, output: Path, plan: "QuantizationPlan") -> dict[str, Any]:
    return {
        **_common(source, output, plan),
        "tensors": [
            {
                "name": tensor.name,
                "shape": tensor.shape,
                "type_before": tensor.was.name,
                "type_after": tensor.to.name,
                "bytes_before": tensor.bytes_before,
                "bytes_after": tensor.bytes_after,
            }
            for tensor in plan.tensors
        ],
    }


def _result_document(source: Path, result: "QuantizationResult") -> dict[str, Any]:
    return {**_common(source, result.output, result), "tensors": result.tensors, "seconds": result.seconds}


def _common(source: Path, output: Path, it: "QuantizationPlan | QuantizationResult") -> dict[str, Any]:
    return {
        "source": str(source),
        "output": str(output),
        "type": it.type if isinstance(it.type, str) else it.type.name,
        "elements": it.elements,
        "bytes_before": it.bytes_before,
        "bytes_after": it.bytes_after,
        "bits_per_weight_before": it.bits_per_weight_before,
        "bits_per_weight_after": it.bits_per_weight_after,
        "tensor_types": dict(it.tensor_types),
        "fallbacks": [
            {
                **dataclasses.asdict(fallback),
                "wanted": fallback.wanted.name,
                "got": fallback.got.name,
            }
            for fallback in it.fallbacks
        ],
        "without_importance": list(it.without_importance),
    }


def _print_types(*, as_json: bool) -> None:
    from ggufkit.quantization.types import TYPES

    if as_json:
        _output.print_json(
            {
                "types": [
                    {**dataclasses.asdict(kind), "base": kind.base.name, "block_size": kind.block_size}
                    for kind in TYPES
                ]
            }
        )
        return
    print(f"{'TYPE':<10} {'BITS':>5}  {'IMATRIX':<8} GOOD FOR")
    for kind in TYPES:
        need = "needed" if kind.needs_imatrix else ""
        print(f"{kind.name:<10} {kind.bits_per_weight:>5.2f}  {need:<8} {kind.good_for}")
    print("\nBITS: bits per weight of a Llama-3.1-8B; smaller models end higher.")
