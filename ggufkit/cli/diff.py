"""`ggufkit diff`: what two GGUF models differ in."""

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from ggufkit.cli import _model, _options, _output
from ggufkit.counting import counted

if TYPE_CHECKING:
    from ggufkit.evaluation.difference import Difference, TensorDifference

_SHOWN = 20


def command(
    left: Annotated[str, typer.Argument(metavar="A", help="A GGUF file, or owner/repo:QUANT.", show_default=False)],
    right: Annotated[str, typer.Argument(metavar="B", help="The other one, named likewise.", show_default=False)],
    rounding: Annotated[
        bool,
        typer.Option("--rounding", help="Take other types, and values that differ by their rounding, for the same."),
    ] = False,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            show_default=False,
            help="Leave out metadata, such as 'general.*'. May be given several times.",
        ),
    ] = None,
    no_values: Annotated[
        bool, typer.Option("--no-values", help="Compare headers alone: instant, whatever the size.")
    ] = False,
    threads: _options.Threads = None,
    as_json: _options.Json = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing; the exit code says it.")] = False,
) -> None:
    """Tell what two GGUF models differ in.

    They are compared by meaning: metadata, tensors, types, values. Exit code 0: they mean the same; 7: they differ.
    Values are compared as numbers, whatever their types: identical, apart by what the types round, or different. How a
    model is split into files does not count.
    """
    from ggufkit.errors import VerificationError
    from ggufkit.evaluation.difference import compare
    from ggufkit.llamacpp.cpu import usable_cores

    silent = quiet or as_json
    paths = [_model.resolve(each, kind="gguf", quiet=silent) for each in (left, right)]
    with _output.progress_bar(quiet=silent) as progress:
        found = compare(
            paths[0],
            paths[1],
            ignored=ignore or (),
            with_values=not no_values,
            threads=threads or usable_cores(),
            progress=progress,
        )
    same = found.is_nothing(rounding=rounding)
    if as_json:
        _output.print_json({"left": left, "right": right, "same": same, **dataclasses.asdict(found)})
    elif not quiet:
        _show(found)
    if not same:
        raise typer.Exit(VerificationError.exit_code)


def _show(found: "Difference") -> None:
    from ggufkit.cli._inspect_view import printable

    for each in found.metadata[:_SHOWN]:
        sides = [("-", each.left), ("+", each.right)]
        print(printable(each.key))
        for sign, value in sides:
            print(f"  {sign} {printable(value) if value is not None else '(none)'}")
    if len(found.metadata) > _SHOWN:
        print(f"… and {counted(len(found.metadata) - _SHOWN, 'more key')} (--json lists them)")
    for tensor in sorted(found.tensors, key=_weight)[:_SHOWN]:
        print(f"{printable(tensor.name)}: {_told(tensor)}")
    if len(found.tensors) > _SHOWN:
        print(f"… and {counted(len(found.tensors) - _SHOWN, 'more tensor')} (--json lists them)")
    counts: dict[str, int] = {}
    for tensor in found.tensors:
        missing = tensor.left_type is None or tensor.right_type is None
        kind = "on one side only" if missing else f"{tensor.values.value}, {'' if _same_type(tensor) else 'other type'}"
        counts[kind.removesuffix(", ")] = counts.get(kind.removesuffix(", "), 0) + 1
    tensors = "; ".join(f"{count} {kind}" for kind, count in counts.items())
    same = found.compared - sum(1 for each in found.tensors if each.left_type and each.right_type)
    keys = counted(len(found.metadata), "key differs", "keys differ")
    print(f"metadata: {keys}; tensors: {same} the same{f'; {tensors}' if tensors else ''}")


def _told(tensor: "TensorDifference") -> str:
    if tensor.left_type is None or tensor.right_type is None:
        return f"only in {'the second' if tensor.left_type is None else 'the first'}"
    if tensor.left_shape != tensor.right_shape:
        shapes = [" x ".join(map(str, shape or ())) for shape in (tensor.left_shape, tensor.right_shape)]
        return f"shape {shapes[0]} and {shapes[1]}"
    types = "" if _same_type(tensor) else f"{tensor.left_type} and {tensor.right_type}, "
    off = f" (off by {tensor.relative_error:.2e}, at most {tensor.largest:.2e})" if tensor.relative_error else ""
    return f"{types}values {tensor.values.value}{off}"


def _weight(tensor: "TensorDifference") -> tuple[int, float]:
    """What matters most comes first: missing tensors, other values, then the largest rounding."""
    order = ["not compared", "different", "rounding", "identical"]
    return order.index(tensor.values.value), -(tensor.relative_error or 0.0)


def _same_type(tensor: "TensorDifference") -> bool:
    return tensor.left_type == tensor.right_type
