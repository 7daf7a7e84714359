"""What is needed to measure a run again: command, versions, machine, texts, hashes; and all of it as data."""

import json
from collections.abc import Mapping, Sequence
from html import escape

from ggufkit.reports.reading import Run
from ggufkit.reports.verdict import said
from ggufkit.reports.wording import size


def reproducibility(number: int, run: Run) -> str:
    """Write the block at the end of a run; the data is a JSON script of the id `run-NUMBER`."""
    raw = run.raw
    settings = _mapping(raw.get("settings"))
    lines: list[tuple[str, object]] = [
        ("settings", ", ".join(f"{k} {_plain(v)}" for k, v in settings.items())),
        ("limits of the run", said(run.gates) if run.gates.any else None),
    ]
    texts = raw.get("texts")
    for text in texts if isinstance(texts, list) else []:
        it = _mapping(text)
        read = f"{it.get('chunks')} chunks of {settings.get('chunk_tokens', '?')} tokens"
        lines.append((f"text {it.get('name')}", f"{read}, of {it.get('bytes', '?')} bytes; sha256 {it.get('sha256')}"))
    for model in (run.base, *run.models):
        files = model.files if len(model.files) > 1 else {model.file: model.sha256}
        lines += [(name, f"sha256 {digest}") for name, digest in files.items()]
    lines += [(f"baseline {name}", versions) for name, versions in _versions(raw.get("baselines"))]
    return again(f"run-{number}", raw, lines)


def again(name: str, raw: Mapping[str, object], more: Sequence[tuple[str, object]]) -> str:
    """Write with what a result was measured, and all of it as data, a JSON script of the id `name`.

    `more` are lines besides those that all results have; what is empty is left out.
    """
    lines = [
        ("command", raw.get("command")),
        ("measured", raw.get("created")),
        ("ggufkit", raw.get("ggufkit")),
        ("llama.cpp", " ".join(f"{k} {v}" for k, v in _mapping(raw.get("llama_cpp")).items())),
        ("Python", raw.get("python")),
        ("machine", _machine(_mapping(raw.get("machine")))),
        *more,
    ]
    rows = "".join(f"<dt>{escape(str(key))}</dt><dd>{escape(str(value))}</dd>" for key, value in lines if value)
    data = json.dumps(raw, ensure_ascii=False).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return (
        f'<h2>To measure it again</h2><dl>{rows}</dl><p class="note">All figures are in this page as JSON, in the'
        f" element <code>{name}</code>.</p>"
        f'<script type="application/json" id="{name}">{data}</script>\n'
    )


def _machine(machine: Mapping[str, object]) -> str:
    memory = machine.get("memory")
    parts = [
        str(machine.get("cpu", "")),
        f"{machine['cores']} cores" if "cores" in machine else "",
        f"{size(memory)} of memory" if isinstance(memory, int) else "",
        str(machine.get("system", "")),
    ]
    return ", ".join(part for part in parts if part)


def _plain(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return str(value)


def _versions(baselines: object) -> list[tuple[str, str]]:
    found = []
    for it in baselines if isinstance(baselines, list) else []:
        row = _mapping(it)
        versions = " ".join(f"{k} {v}" for k, v in _mapping(row.get("versions")).items())
        if versions:
            found.append((str(row.get("name", "")), versions))
    return found


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}
