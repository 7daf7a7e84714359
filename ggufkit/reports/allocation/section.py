"""The section itself: the answer first, then sizes, bits, what was foretold, and the texts."""

from html import escape

from ggufkit.counting import counted
from ggufkit.reports.allocation.pictures import WELL_FORETOLD, both_ways, foretold, frontier
from ggufkit.reports.allocation.reading import Allocation, Candidate, File, Point
from ggufkit.reports.allocation.strip import by_kind, strip
from ggufkit.reports.reproducibility import again
from ggufkit.reports.tables import heads, scrolled
from ggufkit.reports.wording import nats, percent, short, size

_USES = {
    "calibration": "makes the importance matrix",
    "probing": "tells how much tensors matter",
    "choosing": "compares the candidates",
}


def section(number: int, found: Allocation, *, alone: bool) -> str:
    """Draw all that there are figures for; `number` tells the results of a page apart."""
    heading = "" if alone else f"<h2>{escape(found.model)} <small>({escape(found.source)})</small></h2>"
    parts = [
        heading,
        *(_answer(file) for file in found.files),
        _sizes(found),
        *(_bits(found, file, is_open=number == 0) for number, file in enumerate(found.files)),
        _foretold(found),
        _both_ways(found),
        _texts(found),
        again(f"allocation-{number}", found.raw, _settings(found)),
    ]
    return f'<section aria-label="{escape(f"types of {found.model}, {found.source}")}">{"".join(parts)}</section>\n'


def _answer(file: File) -> str:
    chosen, preset = file.chosen, file.preset
    facts = [
        ("size", size(file.bytes), f"{file.bytes / file.budget:.2%} of {file.budget:,} bytes"),
        ("bits per weight", f"{file.bits_per_weight:.2f}", ""),
        ("KL divergence", short(chosen.measured), f"{percent(chosen.same_top)} same top token"),
    ]
    if preset is not None and preset != chosen and preset.measured > 0:
        sure = "" if file.is_clear else ", within what chance explains"
        facts.append(("of the preset's", f"{chosen.measured / preset.measured:.2f} times", f"{preset.name}{sure}"))
    if chosen.tail is not None:
        facts.append(("99.9 % of tokens below", short(chosen.tail), _tail_of(preset, chosen)))
    listed = "".join(
        f'<li><span class="note">{escape(name)}</span> <b>{escape(value)}</b>'
        f' <span class="note">{escape(more)}</span></li>'
        for name, value, more in facts
    )
    why = (
        f"The preset itself: no choice of types was better than {preset.name} on unseen text."
        if preset is not None and (chosen == preset or chosen.is_preset)
        else f"As large as {file.target} allows, chosen as “{chosen.name}” among {len(file.candidates)} candidates."
    )
    return (
        f'<div class="verdict"><p class="answer"><strong>{escape(file.output)}</strong></p>'
        f'<ul class="facts">{listed}</ul><p>{escape(why)}</p>{_refined(file)}</div>'
    )


def _tail_of(preset: Candidate | None, chosen: Candidate) -> str:
    return f"{preset.name} {short(preset.tail)}" if preset and preset != chosen and preset.tail is not None else ""


def _refined(file: File) -> str:
    if not file.refined:
        return ""
    accepted = sum(is_accepted for _, is_accepted, _ in file.refined)
    said = f"Refined: {accepted} of {counted(len(file.refined), 'matrix', 'matrices')}; the others stay as they were."
    reasons = sorted({reason for _, _, reason in file.refined if reason})
    return f"<p>{escape(said)}{escape(' Because: ' + '; '.join(reasons) + '.') if reasons else ''}</p>"


def _sizes(found: Allocation) -> str:
    drawn = frontier(found)
    presets = [point for point in found.frontier if point.preset]
    ours = [point for point in found.frontier if not point.preset]
    measured = {each.name: each for file in found.files for each in file.candidates if each.is_preset}
    rows = []
    for point in presets:
        best = _at(ours, point.bytes)
        file = measured.get(str(point.preset))
        cells = [
            size(point.bytes),
            f"{point.bits_per_weight:.2f}",
            nats(point.predicted),
            nats(best.predicted) if best else "",
            f"{best.predicted / point.predicted:.2f}" if best and point.predicted else "",
            nats(file.measured) if file else "",
        ]
        rows.append(
            f'<tr><th scope="row">{escape(str(point.preset))}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        )
    columns = ("preset", "size", "bits", "foretold", "chosen types", "ratio", "measured")
    table = scrolled("Presets and chosen types of their sizes", heads(*columns), "".join(rows)) if rows else ""
    note = (
        "The line: what chosen types are foretold to lose at every size. Grey: presets, foretold in the same way."
        " Green and blue: the files that were made and the presets of their sizes, measured on text that chose nothing"
        " else. Foretold figures are in proportion to what those files have measured, where there are any."
    )
    if not drawn:
        return ""
    return f"<h2>Every size</h2><figure>{drawn}<figcaption>{note}</figcaption></figure>{table}"


def _at(points: list[Point], most: int) -> Point | None:
    """Return the best of the chosen types that are no larger than so many bytes."""
    fitting = [point for point in points if point.bytes <= most]
    return min(fitting, key=lambda point: point.predicted, default=None)


def _bits(found: Allocation, file: File, *, is_open: bool) -> str:
    beside = (
        f" ▲ and ▼: more or fewer bits than in {file.preset.name}."
        if file.preset and file.chosen != file.preset
        else ""
    )
    return (
        f"<h2>Where the bits of {escape(file.output)} went</h2>"
        f"<details{' open' if is_open else ''}><summary>The type of every tensor</summary>"
        f'<p class="note">By kind and block: the redder, the fewer bits.{escape(beside)}</p>{strip(file)}</details>'
        f"<details{' open' if is_open else ''}><summary>Kinds of tensors</summary>"
        '<p class="note">The loss is that of each kind alone, in the coarse type that it was measured in.</p>'
        f"{by_kind(found, file)}</details>"
    )


def _foretold(found: Allocation) -> str:
    rows = []
    for file in found.files:
        for each in file.candidates:
            is_chosen = each == file.chosen
            cells = [
                escape(file.target),
                size(each.bytes),
                nats(each.predicted_by_probes),
                _ratio(each.predicted_by_probes, each.measured),
                nats(each.predicted),
                _ratio(each.predicted, each.measured),
                nats(each.measured),
                "" if each.tail is None else short(each.tail),
                percent(each.same_top),
            ]
            name = f"{each.name} (chosen)" if is_chosen else each.name
            rows.append(
                f'<tr class="{"best" if is_chosen else "dim" if each.is_preset else "plain"}">'
                f'<th scope="row">{escape(name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
            )
    if not rows:
        return ""
    columns = ("candidate", "target", "size", "by probes", "/ measured", "in the end", "/ measured", "measured")
    table = scrolled("Candidates", heads(*columns, "99.9 %", "same top"), "".join(rows))
    low, high = WELL_FORETOLD
    note = (
        "By probes: the sum of what single tensors cost, known before any file was made. In the end: in proportion to"
        " what the preset's own file has measured, so for the preset this is no foretelling. The dashed lines are"
        f" {low:g} and {high:g} times what was measured."
    )
    drawn = foretold(found)
    figure = f"<figure>{drawn}<figcaption>{note}</figcaption></figure>" if drawn else ""
    return f"<h2>Foretold and measured</h2>{figure}{table}"


def _ratio(value: float | None, measured: float) -> str:
    return f"{value / measured:.2f}" if value is not None and measured > 0 else ""


def _both_ways(found: Allocation) -> str:
    drawn = both_ways(found)
    note = "What the backward pass says of groups of tensors, where an earlier run has probed them too."
    return f"<h2>Backward pass and probes</h2><figure>{drawn}<figcaption>{note}</figcaption></figure>" if drawn else ""


def _texts(found: Allocation) -> str:
    rows = []
    for text in found.texts:
        read = f"{counted(text.chunks, 'chunk')} of {text.chunk_tokens}" if text.chunks else "by llama-imatrix"
        cells = [_USES.get(text.use, ""), f"{text.tokens:,}", read, text.sha256[:16]]
        rows.append(
            f'<tr><th scope="row">{escape(text.use)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        )
    table = scrolled("Texts", heads("text", "what it is for", "tokens", "read", "SHA-256"), "".join(rows))
    too_much = [each for each in found.shared if each.share > found.limit]
    little = [each for each in found.shared if each not in too_much]
    said = []
    if too_much:
        listed = "".join(f"<li>{escape(f'{e.share:.1%} of {e.within} is in {e.of} too')}</li>" for e in too_much)
        said.append(
            '<p class="doubt"><strong>The texts are not disjoint: what was measured flatters.</strong></p>'
            f"<ul>{listed}</ul>"
        )
    else:
        most = max((each.share for each in little), default=0.0)
        said.append(
            f"<p>The texts are disjoint: of the passages of 32 tokens of each, at most {most:.2%} are in another"
            f" ({found.limit:.1%} would be too much).</p>"
        )
    if not any(text.use == "calibration" for text in found.texts):
        said.append(
            '<p class="doubt">The importance matrix was given: which text it is made of is not known here, so that'
            " it may be one of these could not be ruled out.</p>"
        )
    return f"<h2>Texts</h2>{''.join(said)}{table}"


def _settings(found: Allocation) -> list[tuple[str, object]]:
    settings = found.raw.get("settings")
    pairs = settings.items() if isinstance(settings, dict) else ()
    lines: list[tuple[str, object]] = [
        ("settings", ", ".join(f"{name} {value}" for name, value in pairs if value not in {None, False}))
    ]
    if equalized := found.raw.get("equalized_channels"):
        lines.append(("equalized", f"{equalized} channels scaled; what the model computes stays the same"))
    if found.raw.get("scales_searched"):
        lines.append(("scales", "searched for: same types and bytes as llama-quantize's, less error"))
    seconds, estimate = found.raw.get("seconds"), found.raw.get("estimate")
    if isinstance(seconds, int | float) and isinstance(estimate, dict):
        lines.append(("took", f"{seconds:,.0f} s; {float(estimate.get('seconds', 0)):,.0f} s were expected"))
    return [*lines, *((f"text {text.use}", f"sha256 {text.sha256}") for text in found.texts)]
