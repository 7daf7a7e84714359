"""Replies side by side: what a model says otherwise than the original is marked, word by word."""

import difflib
import re
from collections.abc import Mapping
from html import escape
from typing import Any

from ggufkit.reports.reading import Run

_WORDS = re.compile(r"\s+|\w+|[^\w\s]")
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
        '<p class="note">Greedy, one seed. Marked: words that the original does not say there.</p>' + "".join(parts)
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
    """Mark the words of `text` that are not in `base` at their place."""
    one, other = (_WORDS.findall(words)[:_MOST_WORDS] for words in (base, text))
    parts = []
    for kind, _, _, start, end in difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        words = escape("".join(other[start:end]))
        if words:
            parts.append(words if kind == "equal" else f"<mark>{words}</mark>")
    return "".join(parts)


def _text(reply: object) -> str:
    if not isinstance(reply, dict):
        return ""
    return str(reply.get("text") or "") or f"({reply.get('error') or 'nothing'})"
