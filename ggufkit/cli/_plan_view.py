"""What `ggufkit plan` prints: a table of types for people, one document for programs."""

import dataclasses
import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ggufkit.cli._output import size
from ggufkit.planning.advice import Choice
from ggufkit.planning.memory import Fit
from ggufkit.planning.plan import ModelPlan
from ggufkit.planning.quality import Quality
from ggufkit.planning.row import Row

_FIT_WORDS = {Fit.YES: "yes", Fit.TIGHT: "tight", Fit.NO: "no", None: "?"}
_FIT_COLOURS = {Fit.YES: "green", Fit.TIGHT: "yellow", Fit.NO: "red", None: ""}
_WIDTH_ELSEWHERE = 120  # of a file or a pipe


def show(plan: ModelPlan) -> None:
    """Print the table, what its columns mean, and which type to take."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDTH_ELSEWHERE
    console = Console(highlight=False, width=max(80, width))
    console.print(Text(_title(plan)))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name, justify in _columns(plan):
        table.add_column(name, justify=justify, no_wrap=name != "NOTES")
    chosen = plan.advice.choice.row if plan.advice else None
    for row in plan.rows:
        style = "bold" if row is chosen else ""
        cells = [Text(cell, style=style) for cell in _cells(plan, row)]
        cells[4].stylize(_FIT_COLOURS[row.fit])
        table.add_row(*cells)
    console.print(table)
    for line in _legend(plan):
        console.print(Text(line, style="dim"))
    for text in _refusals(plan.refused):
        console.print(Text(text))
    for model in plan.ready:
        console.print(Text(f"already in the repository: {model.path} ({size(model.size)})"))
    if plan.advice:
        console.print()
        for choice in (plan.advice.choice, *plan.advice.others):
            console.print(Text(_choice(choice), style="bold" if choice is plan.advice.choice else ""))
            if choice is plan.advice.choice:
                console.print(Text(f"  {plan.advice.command}", style="bold"), soft_wrap=True)


def document(plan: ModelPlan) -> dict[str, Any]:
    """Say everything for programs. Bytes, bits per weight, nats per token, tokens per second."""
    advice = plan.advice
    return {
        "source": plan.source,
        "origin": plan.origin.value,
        "architecture": plan.architecture,
        "model": plan.model,
        "elements": plan.elements,
        "source_bytes": plan.source_bytes,
        "download_bytes": plan.download_bytes,
        "context_size": plan.context_size,
        "training_context": plan.training_context,
        "ram": plan.ram,
        "vram": plan.vram,
        "memory_bandwidth": plan.speeds.memory if plan.speeds else None,
        "caches": [dataclasses.asdict(caches) for caches in plan.caches],
        "memory_failure": plan.memory_failure,
        "types": [_row_document(row) for row in plan.rows],
        "refused": dict(plan.refused),
        "ready": [{"path": model.path, "bytes": model.size} for model in plan.ready],
        "recommended": advice and {**_choice_document(advice.choice), "command": advice.command},
        "others": [_choice_document(choice) for choice in advice.others] if advice else [],
        "warnings": list(plan.warnings),
    }


def _row_document(row: Row) -> dict[str, Any]:
    memory = row.memory
    return {
        "type": row.name,
        "bytes": row.bytes,
        "bits_per_weight": row.bits_per_weight,
        "needs_imatrix": row.needs_imatrix,
        "tensor_types": dict(row.tensor_types),
        "fallbacks": [
            {**dataclasses.asdict(fallback), "wanted": fallback.wanted.name, "got": fallback.got.name}
            for fallback in row.fallbacks
        ],
        "memory": memory and {**dataclasses.asdict(memory), "peak": memory.peak, "needed": memory.needed},
        "fits": row.fit and row.fit.value,
        "fits_vram": row.fits_vram and row.fits_vram.value,
        "quality": row.quality and dataclasses.asdict(row.quality),
        "tokens_per_second": row.tokens_per_second,
        "disk_bytes": row.disk,
    }


def _choice_document(choice: Choice) -> dict[str, Any]:
    return {"purpose": choice.purpose, "type": choice.row.name, "reason": choice.reason}


def _title(plan: ModelPlan) -> str:
    download = f", {size(plan.download_bytes)} to download" if plan.download_bytes else ""
    return (
        f"{plan.source}: {plan.architecture}, {_count(plan.elements)} weights, {size(plan.source_bytes)} as it is"
        f"{download}; context {plan.context_size}, {size(plan.ram)} of memory"
        + (f", {size(plan.vram)} on the GPU" if plan.vram is not None else "")
    )


def _count(elements: int) -> str:
    for limit, unit in ((1e9, "B"), (1e6, "M")):
        if elements >= limit:
            return f"{elements / limit:.2f} {unit}"
    return f"{elements:,}"


def _columns(plan: ModelPlan) -> list[tuple[str, Any]]:
    names = ["TYPE", "SIZE", "BITS", "MEMORY", "FITS", *(["GPU"] if plan.vram is not None else [])]
    names += ["LOSS", "TOK/S", "DISK", "NOTES"]
    return [(name, "left" if name in {"TYPE", "FITS", "GPU", "NOTES"} else "right") for name in names]


def _cells(plan: ModelPlan, row: Row) -> list[str]:
    return [
        row.name,
        size(row.bytes),
        f"{row.bits_per_weight:.2f}",
        size(row.memory.peak) if row.memory else "?",
        _FIT_WORDS[row.fit],
        *([_FIT_WORDS[row.fits_vram]] if plan.vram is not None else []),
        _loss(row.quality),
        f"{row.tokens_per_second:.3g}" if row.tokens_per_second else "?",
        size(row.disk),
        _notes(row),
    ]


def _loss(quality: Quality | None) -> str:
    if quality is None:
        return "?"
    figure = f"{quality.mean_kld:.4f}" if quality.mean_kld < 0.1 else f"{quality.mean_kld:.2f}"
    return figure if quality.measured else f"~{figure}"


def _notes(row: Row) -> str:
    notes = ["needs an importance matrix"] if row.needs_imatrix else []
    counts = Counter((fallback.wanted.name, fallback.got.name) for fallback in row.fallbacks)
    notes += [f"{count} {wanted} -> {got}" for (wanted, got), count in counts.most_common()]
    return ", ".join(notes)


def _legend(plan: ModelPlan) -> list[str]:
    lines = []
    if plan.caches:
        caches, kinds = plan.caches[0], f"{plan.caches[0].setting.cache_type_k}/{plan.caches[0].setting.cache_type_v}"
        state = f", states {size(caches.state)}" if caches.state else ""
        lines.append(
            f"memory: keys and values {size(caches.cache)} ({kinds}"
            + "".join(f"; at {each.setting.context_size} tokens {size(each.cache)}" for each in plan.caches[1:])
            + f"){state}, buffers {size(caches.compute + caches.output)}, the rest is weights"
        )
    if any(row.memory and row.memory.repacked for row in plan.rows):
        lines.append("memory counts weights twice of which this CPU keeps a rearranged copy; one can be let go of")
    if plan.memory_failure:
        lines.append(f"memory is not known: {plan.memory_failure}")
    sources = {row.quality.source for row in plan.rows if row.quality and not row.quality.measured}
    lines += [f"loss: mean KL divergence, ~ as published for another model ({source})" for source in sources]
    sources = {row.quality.source for row in plan.rows if row.quality and row.quality.measured}
    lines += [f"loss: measured on this model ({source})" for source in sorted(sources)]
    if plan.speeds:
        lines.append(f"tokens per second: at {size(round(plan.speeds.memory))}/s of memory bandwidth, measured here")
    if any(row.fallbacks for row in plan.rows):
        lines.append("A -> B: rows do not divide into the blocks of A")
    return lines


def _refusals(refused: Mapping[str, str]) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for name, reason in refused.items():
        by_reason.setdefault(reason, []).append(name)
    return [f"not {', '.join(names)}: {reason}" for reason, names in by_reason.items()]


def _choice(choice: Choice) -> str:
    row = choice.row
    memory = f", {size(row.memory.peak)} of memory" if row.memory else ""
    return f"{choice.purpose}: {row.name} ({size(row.bytes)}{memory}): {choice.reason}"
