"""Replies side by side: what a model says otherwise than the original is marked, word by word."""

import difflib
import re
from collections.abc import Mapping
from html import escape
from typing import Any

from ggufkit.reports.reading import Run

_WORDS = re.compile(r"\s+|\w+|[^\w\s]")
_PARTING = '<span class="parting" role="img" aria-label="here it leaves the original">⌿</span>'
_MOST_WORDS = 2000  # of a reply; the comparison takes their square


def replies(run: Run) -> str:
    """Lay all replies of a run side by side; nothing where there are none."""
    found = run.raw.get("generations")
    if not isinstance(found, list) or not found:
        return ""
    names = [model.file for model in run.models]
    parts = [_prompt(it, names, is_open=number == 0) for number, it in enumerate(found) if isinstance(it, dict)]
    return (
        "<h2>Replies side by side</h2>"
        '<p class="note">Greedy, one seed. ⌿: where a reply leaves the original. Marked: words that the original does'
        " not say there; struck out: words of the original that are missing.</p>" + "".join(parts)
    )


def _prompt(it: Mapping[str, Any], names: list[str], *, is_open: bool) -> str:
    base = _text(it.get("base"))
    columns = [f"<div><h3>original</h3><p>{escape(base)}</p></div>"]
    answers = it.get("replies")
    for name, reply in zip(names, answers if isinstance(answers, list) else [], strict=False):
        agreement = reply.get("agreement") if isinstance(reply, dict) else None
        length = _length(agreement if isinstance(agreement, dict) else {})
        columns.append(
            f"<div><h3>{escape(name)}</h3><p>{_marked(base, _text(reply))}</p>"
            f'<p class="note">{escape(length)}</p></div>'
        )
    return (
        f"<details{' open' if is_open else ''}><summary>{escape(str(it.get('prompt', '')))}</summary>"
        f'<div class="replies">{"".join(columns)}</div></details>'
    )


def _length(agreement: Mapping[str, Any]) -> str:
    if agreement.get("same") is True:
        return "the same to the end"
    return f"the same for {agreement.get('tokens', 0)} of {agreement.get('of_tokens', 0)} tokens"


def _marked(base: str, text: str) -> str:
    """Mark where `text` leaves `base` first, and from there the words that only one of both has."""
    first = next((n for n, (a, b) in enumerate(zip(base, text, strict=False)) if a != b), min(len(base), len(text)))
    if base == text:
        return escape(text)
    one, other = (_WORDS.findall(words)[:_MOST_WORDS] for words in (base, text))
    parts, written, told = [], 0, False
    for kind, old_start, old_end, start, end in difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        words, lost = "".join(other[start:end]), "".join(one[old_start:old_end])
        if not told and (kind != "equal" or written + len(words) > first):
            told = True
            parts.append(_PARTING)
        if kind == "equal":
            parts.append(escape(words))
        else:
            parts.append(f"<del>{escape(lost)}</del>" if lost.strip() else "")
            parts.append(f"<mark>{escape(words)}</mark>" if words else "")
        written += len(words)
    return "".join(parts)


def _text(reply: object) -> str:
    if not isinstance(reply, dict):
        return ""
    return str(reply.get("text") or "") or f"({reply.get('error') or 'nothing'})"
