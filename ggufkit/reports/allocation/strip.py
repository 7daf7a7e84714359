"""Where the bits went: the type of every tensor by layer and kind, beside what the preset would have given it."""

import re
from collections.abc import Iterable, Mapping
from html import escape

from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.reports.allocation.reading import Allocation, File
from ggufkit.reports.tables import heads, heat_step, scrolled
from ggufkit.reports.wording import short, size

_BLOCK = re.compile(r"^blk\.(\d+)\.(.+)$")
_MORE, _LESS = "▲", "▼"


def strip(file: File) -> str:
    """Draw a row for each kind of tensor and a column for each layer; marks say where the preset differs."""
    inside: dict[str, dict[int, str]] = {}
    outside: list[str] = []
    for name in file.types:
        found = _BLOCK.match(name)
        if found:
            inside.setdefault(found[2], {})[int(found[1])] = name
        else:
            outside.append(name)
    layers = sorted({layer for row in inside.values() for layer in row})
    rows = [
        f'<tr><th scope="row">{escape(kind.removesuffix(".weight"))}</th>'
        + "".join(_cell(file, row.get(layer)) for layer in layers)
        + "</tr>"
        for kind, row in sorted(inside.items())
    ]
    table = scrolled(f"Types in {file.output}", heads("block", *map(str, layers)), "".join(rows), "heat")
    others = heads("tensor", "type")
    single = "".join(
        f'<tr><th scope="row">{escape(name.removesuffix(".weight"))}</th>{_cell(file, name)}</tr>'
        for name in sorted(outside)
    )
    alone = scrolled(f"Types outside the blocks of {file.output}", others, single, "heat") if outside else ""
    return (table if rows else "") + alone


def _cell(file: File, name: str | None) -> str:
    if name is None:
        return "<td></td>"
    kind = file.types[name]
    step = heat_step(kind)
    mark, word = _change(kind, file.preset_types.get(name))
    shown = f'{escape(kind)} <abbr title="{escape(word)}">{mark}</abbr>' if mark else escape(kind)
    return f'<td class="heat-{step}">{shown}</td>'


def _change(kind: str, before: str | None) -> tuple[str, str]:
    if before is None or _bits(kind) == _bits(before):
        return "", ""
    return (_MORE, f"more bits than {before}") if _bits(kind) > _bits(before) else (_LESS, f"fewer bits than {before}")


def by_kind(found: Allocation, file: File) -> str:
    """Tell of each kind of tensor: its weights, its bits in the file and in the preset, and what it matters."""
    kinds: dict[str, list[str]] = {}
    for name in file.types:
        match = _BLOCK.match(name)
        kinds.setdefault(match[2] if match else name, []).append(name)
    whole = sum(cost for cost, _ in found.costs.values())
    bytes_of_all = sum(_bytes(found.weights, file.types, names) for names in kinds.values())
    rows = []
    for kind, names in sorted(kinds.items(), key=lambda each: -_cost(found, each[1])):
        weights = sum(found.weights.get(name, 0) for name in names)
        taken = _bytes(found.weights, file.types, names)
        cells = [
            f"{weights:,}",
            size(taken),
            f"{taken / bytes_of_all:.1%}" if bytes_of_all else "",
            _width(taken, weights),
            _width(_bytes(found.weights, file.preset_types, names), weights) if file.preset_types else "",
            f"{_cost(found, names) / whole:.1%}" if whole else "",
            short(_cost(found, names)),
        ]
        rows.append(
            f'<tr><th scope="row">{escape(kind.removesuffix(".weight"))}</th>'
            + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            + "</tr>"
        )
    preset = f"bits in {file.preset.name}" if file.preset else ""
    names_of_columns = ("kind", "weights", "bytes", "share of bytes", "bits", preset, "share of loss", "loss (nats)")
    return scrolled(f"Kinds of tensors in {file.output}", heads(*names_of_columns), "".join(rows))


def _cost(found: Allocation, names: Iterable[str]) -> float:
    return sum(found.costs.get(name, (0.0, ""))[0] for name in names)


def _bytes(weights: Mapping[str, int], types: Mapping[str, str], names: Iterable[str]) -> float:
    return sum(weights.get(name, 0) * _bits(types.get(name, "")) / 8 for name in names)


def _width(taken: float, weights: int) -> str:
    return f"{8 * taken / weights:.2f}" if weights else ""


def _bits(kind: str) -> float:
    member = TensorType.__members__.get(kind)
    return 8 * member.block_bytes / member.block_size if member else 0.0
