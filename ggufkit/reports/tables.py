"""The tables of a run: all figures, by text, right answers, other systems, and where the bits are."""

from collections.abc import Callable, Sequence
from html import escape

from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.reports.reading import Model, Run, TaskShare
from ggufkit.reports.verdict import Verdict
from ggufkit.reports.wording import change, nats, percent, rate, size

_HEAT_STEPS = (2.0, 2.6, 3.3, 4.0, 4.6, 5.6, 7.0, 12.0)  # bits per weight between the colours

_Column = tuple[str, Callable[[Model], float | None], Callable[[Model], str]]
_COLUMNS: tuple[_Column, ...] = (
    ("size", lambda m: m.bytes, lambda m: size(m.bytes)),
    ("bits/weight", lambda m: m.bits_per_weight, lambda m: f"{m.bits_per_weight:.2f}"),
    ("KL divergence", lambda m: m.mean_kld, lambda m: _with_error(_six(m.mean_kld), _six(m.mean_kld_error))),
    ("99.9 %", lambda m: m.worst_kld, lambda m: "" if m.worst_kld is None else f"{m.worst_kld:.4f}"),
    ("perplexity", lambda m: m.perplexity, lambda m: _perplexity(m.perplexity, m.perplexity_error)),
    ("change", lambda m: m.perplexity_ratio, lambda m: change(m.perplexity_ratio)),
    ("same top", lambda m: m.same_top, lambda m: percent(m.same_top)),
    ("RMS Δp", lambda m: m.rms_delta_p, lambda m: percent(m.rms_delta_p)),
)


def all_figures(run: Run, found: Verdict) -> str:
    """Make the table that can be sorted by each of its columns."""
    head = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{escape(name)}</button></th>'
        for name in ("model", "limits", *(name for name, _, _ in _COLUMNS))
    )
    rows = "".join(_row(model, run, found) for model in (run.base, *run.models))
    return (
        f"<h2>All figures</h2>{scrolled('All figures', head, rows, 'sortable')}"
        '<p class="note">KL divergence in nats per token: the mean ± its standard error, and the 99.9th percentile.'
        " Change: of the perplexity. Same top: how often the same token is the likeliest. Δp: change of the"
        " probability of the token that came. A click on a heading sorts.</p>"
    )


def _row(model: Model, run: Run, found: Verdict) -> str:
    kind = "base" if model is run.base else "best" if model is found.model else ""
    kind = "dim" if model.file in found.dominated and model is not run.base and not kind else kind
    cells = "".join(
        f'<td data-value="{"" if value(model) is None else value(model)}">{text(model)}</td>'
        for _, value, text in _COLUMNS
    )
    return (
        f'<tr class="{kind}"><th scope="row" data-value="{escape(model.file)}">{escape(model.file)}</th>'
        f"{_kept(model, run, found)}{cells}</tr>"
    )


def _kept(model: Model, run: Run, found: Verdict) -> str:
    if model is run.base:
        return '<td class="words" data-value="">the original</td>'
    if failed := found.failed.get(model.file):
        why = f"<span>✗ fails</span><br><small>{escape(_first(failed))}</small>"
        return f'<td class="words fails" data-value="2">{why}</td>'
    if not found.limits.any:
        return '<td class="words" data-value=""></td>'
    words = "✓ ship this" if model is found.model else "✓ keeps them"
    return f'<td class="words keeps" data-value="{0 if model is found.model else 1}">{words}</td>'


def _first(failed: Sequence[str]) -> str:
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    return f"{failed[0]}{more}"


def by_text(run: Run) -> str:
    """Give the loss on each of several texts."""
    if len(run.base.domains) < 2:
        return ""
    head = heads("model", *(name for name, _, _ in run.base.domains))
    rows = []
    for model in run.models:
        cells = "".join(f"<td>{nats(kld)}<br><small>{_four(value)}</small></td>" for _, value, kld in model.domains)
        rows.append(f'<tr><th scope="row">{escape(model.file)}</th>{cells}</tr>')
    note = '<p class="note">Mean KL divergence, and below it the perplexity.</p>'
    return f"<h2>By text</h2>{scrolled('By text', head, ''.join(rows))}{note}"


def right_answers(run: Run) -> str:
    """Give the share of right answers."""
    if not run.base.tasks:
        return ""
    head = heads("model", *(task.task for task in run.base.tasks))
    rows = [
        f'<tr><th scope="row">{escape(model.file)}</th>{"".join(_answers(task) for task in model.tasks)}</tr>'
        for model in (run.base, *run.models)
    ]
    return (
        f"<h2>Right answers</h2>{scrolled('Right answers', head, ''.join(rows))}"
        '<p class="note">With the 95 % interval; p: how often chance alone would make two equal models differ so'
        " (McNemar's exact test against the original, on the same questions).</p>"
    )


def _answers(task: TaskShare) -> str:
    chance = "" if task.p_value is None else f", p {task.p_value:.2g}"
    return f"<td>{task.share:.1%}<br><small>{task.low:.1%} to {task.high:.1%}{chance}</small></td>"


def other_systems(run: Run) -> str:
    """Put the files beside what else was measured, and say what could not be."""
    if not run.others:
        return ""
    tasks = [task.task for task in run.base.tasks]
    head = heads("", "size", "peak memory", "prompt", "generation", "perplexity", "KL divergence", *tasks)
    rows = []
    for model in (run.base, *run.models):
        of_model = [speed for speed in run.speeds if speed.file == model.file]
        prompt = next((it.median for it in of_model if it.test.startswith("pp") and "+" not in it.test), None)
        reply = next((it.median for it in of_model if it.test.startswith("tg")), None)
        peak = next((it.peak_bytes for it in of_model if it.peak_bytes), None)
        cells = [size(model.bytes), _size(peak), _rate(prompt), _rate(reply)]
        cells += [_perplexity(model.perplexity, model.perplexity_error), nats(model.mean_kld)]
        rows.append(_plain(model.file, [*cells, *_shares(model.tasks, tasks)]))
    for it in run.others:
        if it.why is None:
            star = "" if it.same_text else "*"
            figures = [_perplexity(it.perplexity, it.perplexity_error), nats(it.mean_kld)]
            cells = [_size(it.bytes), _size(it.peak_bytes), _rate(it.prompt), _rate(it.generation)]
            cells += [f"{text}{star}" if text else "" for text in figures]
            rows.append(_plain(it.title, [*cells, *_shares(it.tasks, tasks)]))
        else:
            rows.append(
                f'<tr class="dim"><th scope="row">{escape(it.title)}</th>'
                f'<td class="words" colspan="{6 + len(tasks)}">{escape(it.why)}</td></tr>'
            )
    return (
        f"<h2>Beside other systems</h2>{scrolled('Beside other systems', head, ''.join(rows))}"
        '<p class="note">Same text, same prompts, same number of threads; speeds in tokens per second.'
        f"{_elsewhere(run)}</p>"
    )


def _elsewhere(run: Run) -> str:
    said = [f"{it.title} on {it.device}" if it.device else it.title for it in run.others if it.origin == "elsewhere"]
    parts = [f" Measured elsewhere: {escape(', '.join(said))}."] if said else []
    if any(not it.same_text and it.why is None for it in run.others):
        parts.append(" *: of another text, or cut otherwise.")
    return "".join(parts)


def _plain(name: str, cells: Sequence[str]) -> str:
    return f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _shares(tasks: Sequence[TaskShare], names: Sequence[str]) -> list[str]:
    shares = {task.task: f"{task.share:.1%}" for task in tasks}
    return [shares.get(name, "") for name in names]


def bits(run: Run, found: Verdict) -> str:
    """Draw the type of every tensor, block by block; of the model to ship at once, of others when asked for."""
    shown = [model for model in run.models if model.block_types]
    if not shown:
        return ""
    first = found.model if found.model in shown else shown[0]
    note = '<p class="note">The type of each tensor, block by block: the redder, the fewer bits.</p>'
    return f"<h2>Where the bits are</h2>{note}" + "".join(_heat(it, is_open=it is first) for it in shown)


def _heat(model: Model, *, is_open: bool) -> str:
    count = max(len(types) for types in model.block_types.values())
    head = heads("block", *(str(number) for number in range(count)))
    rows = []
    for name, types in sorted(model.block_types.items()):
        cells = "".join(f'<td class="heat-{heat_step(kind)}">{escape(kind)}</td>' for kind in types)
        cells += "<td></td>" * (count - len(types))
        rows.append(f'<tr><th scope="row">{escape(name.removesuffix(".weight"))}</th>{cells}</tr>')
    others = ", ".join(f"{escape(name)} {escape(kind)}" for name, kind in sorted(model.other_types.items()))
    table = scrolled(f"Types in {model.file}", head, "".join(rows), "heat")
    return (
        f"<details{' open' if is_open else ''}><summary>{escape(model.file)}</summary>{table}"
        f'<p class="note">Outside the blocks: {others}</p></details>'
    )


def heat_step(kind: str) -> int:
    """Return which colour a type has: 0 for the fewest bits, 8 for the most."""
    member = TensorType.__members__.get(kind)
    width = 8 * member.block_bytes / member.block_size if member else 16.0
    return sum(width > step for step in _HEAT_STEPS)


def heads(*names: str) -> str:
    """Write the heads of columns; one without a name heads nothing."""
    return "".join(f'<th scope="col">{escape(name)}</th>' if name else "<td></td>" for name in names)


def scrolled(label: str, head: str, rows: str, kind: str = "plain") -> str:
    """Put rows and the heads of their columns into a table that scrolls by itself where it is too wide."""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">'
        f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _with_error(value: str, error: str) -> str:
    return f'{value} <small class="error">± {error}</small>' if value else ""


def _perplexity(value: float | None, error: float) -> str:
    return "" if value is None else _with_error(f"{value:.4f}", f"{error:.4f}")


def _four(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _six(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def _size(value: int | None) -> str:
    return "" if value is None else size(value)


def _rate(value: float | None) -> str:
    return "" if value is None else rate(value)
