"""The warning that models were calibrated with what they are measured on."""

from collections.abc import Mapping
from html import escape

from ggufkit.reports.wording import percent


def shared_texts(raw: Mapping[str, object]) -> str:
    """Warn of each text of a run that shares too much with a calibration text; nothing where none does."""
    calibration = raw.get("calibration")
    found = calibration.get("shared") if isinstance(calibration, Mapping) else None
    lines = []
    for it in found if isinstance(found, list) else []:
        share = it.get("share") if isinstance(it, Mapping) else None
        if isinstance(share, int | float) and it.get("too_much"):
            texts = f"{it.get('text')} is in {it.get('calibration')}"
            lines.append(f"{percent(share)} of {texts}, which a model was calibrated with: it looks better than it is.")
    return "".join(f'<p class="doubt" role="note">{escape(line)}</p>' for line in lines)
