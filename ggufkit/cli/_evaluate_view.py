"""What `ggufkit eval` shows: a table, the tasks, how far replies agree, and what fails a limit."""

import math
from typing import TYPE_CHECKING

from ggufkit.cli import _output
from ggufkit.counting import counted

if TYPE_CHECKING:
    from ggufkit.evaluation.evaluation_results import Evaluation, ModelResult


def show(found: "Evaluation") -> None:
    """Print all of it."""
    print_table(found)
    print_tasks(found)
    print_generations(found)
    for pair in found.pairs:
        if not pair.difference.is_clear and math.isfinite(pair.difference.difference):
            print(f"{pair.first} and {pair.second} cannot be told apart on this text")


def print_table(found: "Evaluation") -> None:
    width = max(map(len, found.names))
    heading = ("size", "bits/weight", "perplexity", "change", "KL divergence", "99.9 %", "same top", "RMS Δp")
    columns = (9, 11, 19, 9, 21, 8, 8, 7)
    print(f"{'model':<{width}}", *(f"{text:>{room}}" for text, room in zip(heading, columns, strict=True)))
    for name, model in zip(found.names, (found.base, *found.models), strict=True):
        cells = zip(_cells(model), columns, strict=False)
        print(f"{name:<{width}}", *(f"{text:>{room}}" for text, room in cells))


def print_tasks(found: "Evaluation") -> None:
    for number, task in enumerate(found.base.tasks):
        print(f"\n{task.task}: {counted(task.accuracy.questions, 'question')}")
        for name, model in zip(found.names, (found.base, *found.models), strict=True):
            it = model.tasks[number]
            interval = f"{it.accuracy.share:7.2%} ({it.accuracy.low:.1%} to {it.accuracy.high:.1%})"
            paired = "" if it.p_value is None else f", {it.lost} lost and {it.gained} gained (p {it.p_value:.3g})"
            print(f"  {name}: {interval}{paired}")


def print_generations(found: "Evaluation") -> None:
    if not found.generations:
        return
    print(f"\nreplies to {counted(len(found.generations), 'prompt')}, as far as they are the base's:")
    for number, name in enumerate(found.names[1:]):
        agreements = [it.replies[number][1] for it in found.generations]
        tokens = sum(it.tokens for it in agreements) / len(agreements)
        same = sum(it.same for it in agreements)
        print(f"  {name}: {tokens:.1f} tokens on average, {same} of {len(agreements)} to the end")


def _cells(model: "ModelResult") -> list[str]:
    read, divergence = model.likelihood, model.divergence
    cells = [_output.size(model.facts.bytes), f"{model.facts.bits_per_weight:.2f}"]
    if read is not None:
        cells.append(f"{read.perplexity.value:.4f} ± {read.perplexity.standard_error:.4f}")
    if divergence is not None:
        kld = divergence.mean_kld
        cells += [
            f"{divergence.perplexity_ratio.value - 1:+.2%}",
            f"{kld.value:.6f} ± {kld.standard_error:.6f}",
            f"{divergence.percentiles[99.9]:.4f}",
            f"{divergence.same_top.value:.2%}",
            f"{divergence.rms_delta_p.value:.2%}",
        ]
    return cells
