"""The pictures of a run: size against loss, where the loss is, speed, memory."""

from collections.abc import Sequence
from html import escape

from ggufkit.reports import plots
from ggufkit.reports.names import short_names
from ggufkit.reports.plots import Bar, Point
from ggufkit.reports.reading import Model, Run
from ggufkit.reports.speeds import TestSpeed
from ggufkit.reports.verdict import Verdict
from ggufkit.reports.wording import rate, short, size

_CURVE_FLOOR = 1e-6  # nats; below it is rounding
_PARTS = (
    ("weights", "weights"), ("second copy", "repacked"), ("KV cache", "cache"), ("compute", "compute"),
    ("program", "process"),
)  # fmt: skip


def figures(run: Run, found: Verdict) -> str:
    """Draw all that there are figures for."""
    return "".join((_pareto(run, found), _tails(run), _speed(run), _memory(run)))


def _figure(heading: str, pictures: Sequence[str], note: str) -> str:
    drawn = "".join(pictures)
    return f"<h2>{heading}</h2><figure>{drawn}<figcaption>{note}</figcaption></figure>" if drawn else ""


def _pareto(run: Run, found: Verdict) -> str:
    names = short_names(run)
    points = [
        Point(names[m.file], m.bytes, m.mean_kld, m.mean_kld_error, _kind(m, found))
        for m in run.models
        if m.mean_kld is not None
    ]
    picture = plots.scatter(
        points,
        title="Size against mean KL divergence",
        x_label="size of the file",
        y_label="mean KL divergence (nats)",
        x_text=size,
        y_text=short,
        limit=found.limits.max_kld,
    )
    note = "Left and low is good. Grey: another file is both smaller and closer to the original. Bars: standard errors."
    return _figure("Size and loss", [picture], note)


def _kind(model: Model, found: Verdict) -> str:
    if found.model is model:
        return "best"
    return "dim" if model.file in found.dominated else "point"


def _tails(run: Run) -> str:
    names = short_names(run)
    picture = plots.tails(
        [(names[model.file], model.curve) for model in run.models],
        title="KL divergence by percentile of the tokens",
        x_label="percent of the tokens",
        y_label="KL divergence at most (nats)",
        y_text=short,
        floor=_CURVE_FLOOR,
    )
    note = (
        "Token by token: below which divergence so many percent of them are. To the right are the rare tokens at which"
        " a model goes astray; two models with the same mean may differ there."
    )
    return _figure("Where the loss is", [picture], note)


def _speed(run: Run) -> str:
    names = short_names(run)
    if not run.speeds:
        rows = [Bar(names[m.file], [m.speed]) for m in (run.base, *run.models) if m.speed]
        picture = plots.bars(rows, title="Prompt tokens per second", value_text=rate)
        note = (
            "Tokens per second of the pass that read the text: once, with nothing repeated, so rather a hint."
            " <code>ggufkit eval --bench</code> measures speed."
        )
        return _figure("Reading speed", [picture], note)
    pictures = []
    for test in dict.fromkeys(speed.test for speed in run.speeds):
        rows = [
            Bar(names[it.file], [it.median], it.low if it.repeats > 1 else None, it.high if it.repeats > 1 else None)
            for it in _of_test(run, test)
        ]
        picture = plots.bars(rows, title=f"Tokens per second at {test}", value_text=rate)
        pictures.append(f"<h3>{_test_in_words(test)}</h3>{picture}")
    repeats = max(speed.repeats for speed in run.speeds)
    note = f"Tokens per second by llama-bench, the median of {repeats}; thin: from the slowest to the fastest."
    return _figure("Speed", pictures, note)


def _of_test(run: Run, test: str) -> list[TestSpeed]:
    order = {model.file: number for number, model in reversed(list(enumerate((run.base, *run.models))))}
    return sorted((speed for speed in run.speeds if speed.test == test), key=lambda speed: order[speed.file])


def _test_in_words(test: str) -> str:
    """Say what `pp512 @ d4096` means."""
    test, _, settings = test.partition(", ")
    tests, _, depth = test.partition(" @ d")
    kinds = {"pp": "reading a prompt of {} tokens", "tg": "generating {} tokens"}
    words = [kinds[part[:2]].format(part[2:]) for part in tests.split("+") if part[:2] in kinds and part[2:].isdigit()]
    said = ", then ".join(words)
    said = f"{said[:1].upper()}{said[1:]}"
    said = f"{said}, {depth} tokens in the context before" if depth.isdigit() else said
    return f"{said} (-{settings.replace(', ', ' -')})" if settings else said


def _memory(run: Run) -> str:
    names = short_names(run)
    shown = [model for model in (run.base, *run.models) if model.memory]
    peaks, when = _peaks(run)
    if not shown:
        picture = plots.bars([Bar(names[file], [peak]) for file, peak in peaks], title="Memory", value_text=size)
        return _figure("Memory", [picture], f"Measured: the most that a process held, {when}.")
    rows = [Bar(names[model.file], [model.memory.get(part, 0) for _, part in _PARTS]) for model in shown]
    picture = plots.bars(rows, title="Memory", value_text=size, parts_of=[name for name, _ in _PARTS])
    context = shown[0].memory.get("context_size", 0)
    said = ", ".join(f"{names[file]} {size(peak)}" for file, peak in peaks)
    note = (
        f"Planned, not measured: what llama.cpp lays out for a context of {context:,} tokens with keys and values in"
        " 16 bits, on the CPU. Second copy: weights that the CPU rearranges for itself; the pages of the file that they"
        " come from can be dropped."
    )
    return _figure("Memory", [picture], note + (f" Measured peaks, {when}: {escape(said)}." if said else ""))


def _peaks(run: Run) -> tuple[list[tuple[str, int]], str]:
    """Return measured peaks by file, and when that was: at the first reply, else while the text was read."""
    replied = {it.file: it.peak_bytes for it in run.speeds if it.peak_bytes}
    if replied:
        return list(replied.items()), "at the first reply to a prompt of 128 tokens"
    read = [(model.file, model.peak_bytes) for model in (run.base, *run.models) if model.peak_bytes]
    return read, "while the text was read, the figures of every token included"
