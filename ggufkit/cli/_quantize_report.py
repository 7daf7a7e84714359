"""What `ggufkit quantize` prints: a few lines for one type, a table for several, JSON for programs."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufkit.cli import _output

if TYPE_CHECKING:
    from ggufkit.quantization.offered import Offer
    from ggufkit.quantization.plan import Fallback, QuantizationPlan
    from ggufkit.quantization.quantize import QuantizationResult
    from ggufkit.quantization.types import QuantizationType

_SHOWN = 5


def show_plans(
    source: Path,
    jobs: Sequence[tuple["QuantizationType", Path]],
    plans: Sequence["QuantizationPlan"],
    *,
    converted: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Print what would be done; `converted` is the file that a checkpoint is kept in on the way."""
    if as_json:
        documents = [_plan_document(source, path, plan) for (_, path), plan in zip(jobs, plans, strict=True)]
        kept = converted and {"output": str(converted), "bytes": plans[0].bytes_before}
        _output.print_json({"dry_run": True, "converted": kept, "results": documents})
        return
    if quiet:
        for path in [*([converted] if converted else []), *(path for _, path in jobs)]:
            print(path)
        return
    if converted:
        print(f"{converted}: {_output.size(plans[0].bytes_before)}, the converted checkpoint")
    if len(jobs) > 1:
        _print_table([(path, plan) for (_, path), plan in zip(jobs, plans, strict=True)])
    else:
        _print_summary(jobs[0][1], plans[0])
    print("nothing was written")


def show_results(source: Path, results: Sequence["QuantizationResult"], *, as_json: bool, quiet: bool) -> None:
    """Print what was done."""
    if as_json:
        _output.print_json({"dry_run": False, "results": [_result_document(source, result) for result in results]})
    elif quiet:
        for result in results:
            print(*result.outputs, sep="\n")
    elif len(results) > 1:
        _print_table([(result.output, result) for result in results])
    else:
        _print_summary(results[0].output, results[0])


def show_types(offers: Sequence["Offer"], *, asked: bool, as_json: bool) -> None:
    """Print the list of types; `asked` says that it is the program's own."""
    if as_json:
        _output.print_json({"asked_llama_quantize": asked, "types": [_offer_document(offer) for offer in offers]})
        return
    print(f"{'TYPE':<10} {'BITS':>5} {'BLOCK':>5}  {'IMATRIX':<8} {'OLLAMA':<7} GOOD FOR")
    for offer in offers:
        kind = offer.type
        bits = f"{kind.bits_per_weight:.2f}" if kind.bits_per_weight else ""
        block = str(kind.block_size) if kind.block_size > 1 else ""
        need = "needed" if kind.needs_imatrix else "helps" if kind.gains_from_imatrix else ""
        ollama = "yes" if kind.ollama and offer.known else "" if offer.known else "unknown"
        words = f"the same as {offer.alias_of}" if offer.alias_of else kind.good_for
        missing = "" if offer.offered else " (not in this build of llama.cpp)"
        print(f"{offer.name:<10} {bits:>5} {block:>5}  {need:<8} {ollama:<7} {words}{missing}".rstrip())
    print(
        "\nBITS: bits per weight of a Llama-3.1-8B; smaller models end higher. BLOCK: rows that are no multiple of it\n"
        "fall back to another type. IMATRIX: an importance matrix (ggufkit imatrix) is needed, or helps."
    )
    if not asked:
        print("llama.cpp is not built yet (ggufkit setup): this is the list of the version that would be built.")


def _print_table(rows: Sequence[tuple[Path, "QuantizationPlan | QuantizationResult"]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("file", overflow="fold")
    for title in ("size", "bits/weight", "ratio", "seconds", "fallbacks"):
        table.add_column(title, justify="right", no_wrap=True)
    for path, it in rows:
        seconds = getattr(it, "seconds", None)
        took = "" if seconds is None else "was there" if getattr(it, "was_there", False) else f"{seconds:.1f}"
        table.add_row(
            str(path),
            _output.size(it.bytes_after),
            f"{it.bits_per_weight_after:.2f}",
            f"{it.bytes_after / max(1, it.bytes_before):.3f}",
            took,
            str(len(it.fallbacks)),
        )
    console = Console(highlight=False, soft_wrap=False)
    # In a file or a pipe nothing wraps: there, lines are for programs.
    console.width = console.width if console.is_terminal else max(console.width, 60 + max(len(str(p)) for p, _ in rows))
    console.print(table)
    for path, it in rows:
        for line in _remarks(it):
            print(f"{path.name}: {line}")


def _print_summary(output: Path, it: "QuantizationPlan | QuantizationResult") -> None:
    seconds = getattr(it, "seconds", None)
    was_there = getattr(it, "was_there", False)
    ending = ", was there already" if was_there else f", in {seconds:.2f} s" if seconds is not None else ""
    print(
        f"{output}: {_output.size(it.bytes_before)} -> {_output.size(it.bytes_after)}, "
        f"{it.bits_per_weight_before:.2f} -> {it.bits_per_weight_after:.2f} bits per weight{ending}"
    )
    print(f"  tensors: {', '.join(f'{count} {name}' for name, count in it.tensor_types.items())}")
    for line in _remarks(it):
        print(f"  {line}")


def _remarks(it: "QuantizationPlan | QuantizationResult") -> Iterator[str]:
    """Say what is not as the recipe has it; many of one kind are told as one."""
    yield from _fallback_lines(it.fallbacks)
    if it.shifted:
        first = it.shifted[0]
        more = f" and {len(it.shifted) - 1} more" if len(it.shifted) > 1 else ""
        yield (
            f"--tensor-type moved the recipe's choices for other tensors too: {first.tensor} is {first.got.name}"
            f" instead of {first.without.name}{more}; --pin keeps them"
        )
    if it.without_importance:
        yield f"without importance data: {_few(it.without_importance)}"
    yield from it.notes
    if kept := getattr(it, "on_lattice", ()):
        yield f"on a 4-bit lattice already, stored exactly as they were: {_few(kept)}"


def _fallback_lines(fallbacks: Sequence["Fallback"]) -> Iterator[str]:
    groups: dict[tuple[str, str, int], list[str]] = {}
    for fallback in fallbacks:
        groups.setdefault((fallback.wanted.name, fallback.got.name, fallback.columns), []).append(fallback.tensor)
    for (wanted, got, columns), names in groups.items():
        yield f"{got} instead of {wanted}, whose blocks do not divide rows of {columns}: {_few(names)}"


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


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
    return {
        **_common(source, result.output, result),
        "outputs": [str(path) for path in result.outputs],
        "tensors": result.tensors,
        "seconds": result.seconds,
        "was_there": result.was_there,
    }


def _common(source: Path, output: Path, it: "QuantizationPlan | QuantizationResult") -> dict[str, Any]:
    return {
        "source": str(source),
        "output": str(output),
        "type": it.type if isinstance(it.type, str) else it.type.name,
        "elements": it.elements,
        "bytes_before": it.bytes_before,
        "bytes_after": it.bytes_after,
        "ratio": it.bytes_after / max(1, it.bytes_before),
        "bits_per_weight_before": it.bits_per_weight_before,
        "bits_per_weight_after": it.bits_per_weight_after,
        "tensor_types": dict(it.tensor_types),
        "fallbacks": [
            {**dataclasses.asdict(fallback), "wanted": fallback.wanted.name, "got": fallback.got.name}
            for fallback in it.fallbacks
        ],
        "shifted": [
            {"tensor": shift.tensor, "without": shift.without.name, "got": shift.got.name} for shift in it.shifted
        ],
        "without_importance": list(it.without_importance),
        "notes": list(it.notes),
    }


def _offer_document(offer: "Offer") -> dict[str, Any]:
    kind = offer.type
    return {
        "name": offer.name,
        "alias_of": offer.alias_of,
        "number": kind.number if kind.number >= 0 else None,
        "base": kind.base.name,
        "block_size": kind.block_size,
        "bits_per_weight": kind.bits_per_weight or None,
        "needs_imatrix": kind.needs_imatrix,
        "gains_from_imatrix": kind.gains_from_imatrix,
        "good_for": kind.good_for,
        "ollama": kind.ollama if offer.known else None,
        "in_this_build": offer.offered,
    }
