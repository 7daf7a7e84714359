"""The page: the verdict first, then the tables, the plots and what is needed to measure it again."""

import shlex
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from ggufkit.evaluation.gates import Gates
from ggufkit.reports import tables
from ggufkit.reports.allocation.reading import Allocation
from ggufkit.reports.allocation.section import section
from ggufkit.reports.figures import figures
from ggufkit.reports.reading import Model, Run
from ggufkit.reports.replies import replies
from ggufkit.reports.reproducibility import reproducibility
from ggufkit.reports.shared_texts import shared_texts
from ggufkit.reports.verdict import Verdict, verdict
from ggufkit.reports.wording import change, percent, rate, short, size


def render(runs: Sequence[Run], limits: Gates | None = None, allocations: Sequence[Allocation] = ()) -> str:
    """Make the page of one or several results: one file, complete in itself. Evaluations come first.

    Without `limits` each run is judged by its own, or by those of `verdict.DEFAULT`.
    """
    assets = files("ggufkit.reports") / "assets"
    style, script = (assets.joinpath(name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    alone = len(runs) + len(allocations) == 1
    title = _title(runs, allocations)
    body = "".join(_section(number, run, limits, alone=alone) for number, run in enumerate(runs))
    body += "".join(section(number, found, alone=alone) for number, found in enumerate(allocations))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline';"
        " script-src 'unsafe-inline'; img-src data:\">\n"
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1></header>\n<main>\n{body}</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _title(runs: Sequence[Run], allocations: Sequence[Allocation]) -> str:
    if len(runs) + len(allocations) > 1:
        return f"{len(runs)} evaluations" if not allocations else f"{len(runs) + len(allocations)} results"
    return f"{runs[0].base.file}: what quantizing costs" if runs else f"{allocations[0].model}: chosen types"


def _section(number: int, run: Run, limits: Gates | None, *, alone: bool) -> str:
    found = verdict(run, limits)
    parts = [
        _verdict(run, found),
        shared_texts(run.raw),
        tables.all_figures(run, found),
        figures(run, found),
        tables.by_text(run),
        tables.right_answers(run),
        tables.other_systems(run),
        tables.bits(run, found),
        replies(run),
        reproducibility(number, run),
    ]
    name = "" if alone else f"<h2>{escape(run.base.file)} <small>({escape(run.source)})</small></h2>"
    return f'<section aria-label="{escape(f"{run.base.file}, {run.source}")}">{name}{"".join(parts)}</section>\n'


def _verdict(run: Run, found: Verdict) -> str:
    model = found.model
    if model is None:
        head = "Nothing to judge by." if not found.failed else "Ship none of these."
        return (
            f'<div class="verdict none"><p class="answer">{head}</p><p>{escape(found.why)}</p>'
            f"{_failures(found, run.models)}</div>"
        )
    smaller = [other for other in run.models if other.bytes < model.bytes]
    doubt = f'<p class="doubt">{escape(found.doubt)}</p>' if found.doubt else ""
    return (
        f'<div class="verdict"><p class="answer">Ship <strong>{escape(model.file)}</strong></p>'
        f'<ul class="facts">{_facts(run, model)}</ul><p>{escape(found.why)}</p>{doubt}'
        f"{_failures(found, smaller)}{_command(run, model)}</div>"
    )


def _facts(run: Run, model: Model) -> str:
    facts = [
        ("size", size(model.bytes), f"{model.bytes / run.base.bytes:.0%} of the original" if run.base.bytes else "")
    ]
    if model.mean_kld is not None:
        facts.append(("KL divergence", short(model.mean_kld), f"{percent(model.same_top)} same top token"))
    if model.perplexity is not None:
        facts.append(("perplexity", f"{model.perplexity:.4g}", change(model.perplexity_ratio)))
    for task, base in zip(model.tasks, run.base.tasks, strict=False):
        facts.append((task.task, f"{task.share:.1%}", f"right; the original {base.share:.1%}"))
    if model.memory:
        total = sum(value for name, value in model.memory.items() if name != "context_size")
        facts.append(("memory", size(total), f"with {model.memory.get('context_size', 0):,} tokens"))
    speeds = {speed.test[:2]: speed for speed in reversed(run.speeds) if speed.file == model.file}
    if "tg" in speeds:
        reading = f"reading {rate(speeds['pp'].median)}" if "pp" in speeds else ""
        facts.append(("generation", rate(speeds["tg"].median), reading))
    return "".join(
        f'<li><span class="note">{escape(name)}</span> <b>{escape(value)}</b>'
        f' <span class="note">{escape(more)}</span></li>'
        for name, value, more in facts
    )


def _failures(found: Verdict, models: Sequence[Model]) -> str:
    """Say of these models what they fail, the smallest first."""
    lines = [
        f"<li>{escape(model.file)} ({size(model.bytes)}) fails: {escape('; '.join(found.failed[model.file]))}</li>"
        for model in sorted(models, key=lambda model: model.bytes)
        if model.file in found.failed
    ]
    heading = "Smaller, and not good enough:" if found.model else "What each of them fails:"
    return f"<p>{heading}</p><ul>{''.join(lines)}</ul>" if lines else ""


def _command(run: Run, model: Model) -> str:
    if model.type == "unknown":
        return ""
    matrix = ["--imatrix", "imatrix.gguf"] if model.imatrix else []
    words = ["ggufkit", "quantize", run.base.file, model.type, *matrix]
    return f"<p>A plain {escape(model.type)} is made by</p><pre><code>{escape(shlex.join(words))}</code></pre>"
