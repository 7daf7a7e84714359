"""The page: the verdict first, then the table, the plots and what is needed to measure it again."""

import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files

from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.reports import plots
from ggufkit.reports.plots import Point
from ggufkit.reports.reading import Model, Run
from ggufkit.reports.replies import replies
from ggufkit.reports.verdict import Limits, Verdict, verdict

_CURVE_FLOOR = 1e-6  # nats; below it is rounding
_HEAT_STEPS = (2.0, 2.6, 3.3, 4.0, 4.6, 5.6, 7.0, 12.0)  # bits per weight between the colours


def render(runs: Sequence[Run], limits: Limits | None = None) -> str:
    """Make the page of one or several runs: one file, complete in itself."""
    limits = limits or Limits()
    assets = files("ggufkit.reports") / "assets"
    style, script = (assets.joinpath(name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    title = f"{runs[0].base.file}: what quantizing costs" if len(runs) == 1 else f"{len(runs)} evaluations"
    body = "".join(_section(number, run, limits) for number, run in enumerate(runs))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline';"
        " script-src 'unsafe-inline'; img-src data:\">\n"
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1></header>\n<main>\n{body}</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _section(number: int, run: Run, limits: Limits) -> str:
    found = verdict(run, limits)
    parts = [
        _verdict(run, found),
        _figure("Size and loss", _pareto(run, found), "Grey: another file is smaller and closer to the original."),
        _table(run, found),
        _figure("Where the loss is", _curves(run), "How much of the text is below which divergence, token by token."),
        _figure("Reading speed", _speeds(run), "Tokens of a prompt per second, in this run; one pass, no repeats."),
        _domains(run),
        _tasks(run),
        _heat(run),
        replies(run),
        _reproducibility(number, run),
    ]
    name = "" if number == 0 else f"<h2>{escape(run.source)}</h2>"
    return f'<section aria-label="{escape(run.source)}">{name}{"".join(parts)}</section>\n'


def _verdict(run: Run, found: Verdict) -> str:
    model = found.model
    if model is None:
        return f'<div class="verdict none"><p class="answer">Ship none of these.</p><p>{escape(found.why)}</p></div>'
    share = model.bytes / run.base.bytes if run.base.bytes else 0.0
    command = f"ggufkit quantize {model.type} {run.base.file}"
    return (
        f'<div class="verdict"><p class="answer">Ship <strong>{escape(model.file)}</strong>: {_size(model.bytes)},'
        f" {share:.0%} of the original</p><p>{escape(found.why)} Its KL divergence is"
        f" {_nats(model.mean_kld)}; the same token is likeliest in {_percent(model.same_top)} of the places.</p>"
        f"<pre><code>{escape(command)}</code></pre></div>"
    )


_COLUMNS: tuple[tuple[str, Callable[[Model], float | None], Callable[[Model], str]], ...] = (
    ("size", lambda m: m.bytes, lambda m: _size(m.bytes)),
    ("bits per weight", lambda m: m.bits_per_weight, lambda m: f"{m.bits_per_weight:.2f}"),
    ("perplexity", lambda m: m.perplexity, lambda m: _perplexity(m)),
    ("change", lambda m: m.perplexity_ratio, lambda m: _change(m.perplexity_ratio)),
    ("KL divergence", lambda m: m.mean_kld, lambda m: _with_error(m.mean_kld, m.mean_kld_error)),
    ("99.9 %", lambda m: m.worst_kld, lambda m: _nats(m.worst_kld)),
    ("same top", lambda m: m.same_top, lambda m: _percent(m.same_top)),
    ("RMS Δp", lambda m: m.rms_delta_p, lambda m: _percent(m.rms_delta_p)),
)


def _table(run: Run, found: Verdict) -> str:
    heads = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{escape(name)}</button></th>'
        for name in ("model", *(name for name, _, _ in _COLUMNS))
    )
    rows = []
    for model in (run.base, *run.models):
        kind = "base" if model is run.base else "best" if model is found.model else ""
        kind = "dim" if model.file in found.dominated and model is not run.base else kind
        cells = "".join(
            f'<td data-value="{"" if value(model) is None else value(model)}">{escape(text(model))}</td>'
            for _, value, text in _COLUMNS
        )
        rows.append(
            f'<tr class="{kind}"><th scope="row" data-value="{escape(model.file)}">{escape(model.file)}</th>'
            f"{cells}</tr>"
        )
    return (
        '<h2>All figures</h2><div class="scroll" tabindex="0" role="region" aria-label="All figures">'
        f'<table class="sortable"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        '<p class="note">KL divergence in nats per token, mean ± standard error and 99.9th percentile; change: of the'
        " perplexity; Δp: of the probability of the token that came.</p>"
    )


def _pareto(run: Run, found: Verdict) -> str:
    points = [
        Point(
            m.type if m.type != "unknown" else m.file, m.bytes, m.mean_kld, m.mean_kld_error, m.file in found.dominated
        )
        for m in run.models
        if m.mean_kld is not None
    ]
    return plots.scatter(
        points,
        title="Size against mean KL divergence",
        x_label="size of the file",
        y_label="mean KL divergence (nats)",
        x_text=lambda value: _size(int(value)),
        y_text=_short,
    )


def _curves(run: Run) -> str:
    return plots.curves(
        [(model.type if model.type != "unknown" else model.file, model.curve) for model in run.models],
        title="KL divergence by percentile of the tokens",
        x_label="percent of the tokens",
        y_label="KL divergence at most (nats)",
        x_text=lambda value: f"{value:g}",
        y_text=_short,
        floor=_CURVE_FLOOR,
    )


def _speeds(run: Run) -> str:
    rows = [(model.file, model.speed) for model in (run.base, *run.models) if model.speed]
    return plots.bars(rows, title="Prompt tokens per second", text=lambda value: f"{value:,.0f}/s")


def _domains(run: Run) -> str:
    if len(run.base.domains) < 2:
        return ""
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name, _, _ in run.base.domains)
    rows = []
    for model in run.models:
        cells = "".join(f"<td>{_nats(kld)}<br><small>{value:.4f}</small></td>" for _, value, kld in model.domains)
        rows.append(f'<tr><th scope="row">{escape(model.file)}</th>{cells}</tr>')
    return (
        '<h2>By text</h2><div class="scroll" tabindex="0" role="region" aria-label="By text"><table><thead><tr>'
        f'<th scope="col">model</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        '<p class="note">Mean KL divergence, and below it the perplexity.</p>'
    )


def _tasks(run: Run) -> str:
    if not run.base.tasks:
        return ""
    heads = "".join(f'<th scope="col">{escape(task.task)}</th>' for task in run.base.tasks)
    rows = []
    for model in (run.base, *run.models):
        cells = "".join(
            f"<td>{task.share:.1%}<br><small>{task.low:.1%} to {task.high:.1%}"
            f"{'' if task.p_value is None else f', p {task.p_value:.2g}'}</small></td>"
            for task in model.tasks
        )
        rows.append(f'<tr><th scope="row">{escape(model.file)}</th>{cells}</tr>')
    return (
        '<h2>Right answers</h2><div class="scroll" tabindex="0" role="region" aria-label="Right answers"><table>'
        f'<thead><tr><th scope="col">model</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        '<p class="note">With the 95 % interval; p: how often chance alone would make two equal models differ so'
        " (McNemar's exact test against the original, on the same questions).</p>"
    )


def _heat(run: Run) -> str:
    shown = [model for model in run.models if model.block_types]
    if not shown:
        return ""
    return "<h2>Where the bits are</h2>" + "".join(_heat_of(model, is_open=model is shown[0]) for model in shown)


def _heat_of(model: Model, *, is_open: bool) -> str:
    count = max(len(types) for types in model.block_types.values())
    heads = "".join(f'<th scope="col">{number}</th>' for number in range(count))
    rows = []
    for name, types in sorted(model.block_types.items()):
        cells = "".join(
            f'<td class="heat-{_heat_step(kind)}" title="{escape(kind)}">{escape(kind)}</td>' for kind in types
        )
        rows.append(f'<tr><th scope="row">{escape(name.removesuffix(".weight"))}</th>{cells}</tr>')
    others = ", ".join(f"{escape(name)} {escape(kind)}" for name, kind in sorted(model.other_types.items()))
    return (
        f"<details{' open' if is_open else ''}><summary>{escape(model.file)}</summary>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="Types in {escape(model.file)}">'
        f'<table class="heat"><thead><tr><th scope="col">block</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        f'<p class="note">Outside the blocks: {others}</p></details>'
    )


def _heat_step(kind: str) -> int:
    member = TensorType.__members__.get(kind)
    bits = 8 * member.block_bytes / member.block_size if member else 16.0
    return sum(bits > step for step in _HEAT_STEPS)


def _reproducibility(number: int, run: Run) -> str:
    raw = run.raw
    lines = [
        ("measured", raw.get("created")),
        ("ggufkit", raw.get("ggufkit")),
        ("llama.cpp", " ".join(f"{k} {v}" for k, v in _mapping(raw.get("llama_cpp")).items())),
        ("machine", ", ".join(str(value) for value in _mapping(raw.get("machine")).values())),
        ("settings", ", ".join(f"{k} {v}" for k, v in _mapping(raw.get("settings")).items())),
    ]
    texts = raw.get("texts")
    for text in texts if isinstance(texts, list) else []:
        it = _mapping(text)
        lines.append(("text", f"{it.get('name')}: {it.get('chunks')} chunks, sha256 {it.get('sha256')}"))
    lines += [(model.file, f"sha256 {model.sha256}") for model in (run.base, *run.models)]
    rows = "".join(f"<dt>{escape(str(key))}</dt><dd>{escape(str(value))}</dd>" for key, value in lines)
    data = json.dumps(raw, ensure_ascii=False).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return (
        f"<h2>To measure it again</h2><dl>{rows}</dl>"
        f'<script type="application/json" id="run-{number}">{data}</script>\n'
    )


def _figure(heading: str, picture: str, note: str) -> str:
    if not picture:
        return ""
    return f"<h2>{heading}</h2><figure>{picture}<figcaption>{note}</figcaption></figure>"


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _perplexity(model: Model) -> str:
    return "" if model.perplexity is None else f"{model.perplexity:.4f} ± {model.perplexity_error:.4f}"


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def _short(value: float) -> str:
    if value >= 1e-3:
        return f"{value:.3g}"
    digits, _, power = f"{value:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"


def _nats(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}" if abs(value) < 0.1 else f"{value:.4f}"


def _with_error(value: float | None, error: float) -> str:
    return "" if value is None else f"{value:.6f} ± {error:.6f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _change(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio - 1:+.2%}"
