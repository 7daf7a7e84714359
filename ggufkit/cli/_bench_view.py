"""What `ggufkit bench` prints: llama-bench's formats, with columns of ours behind its own."""

import csv
import io
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ggufkit.cli import _output
from ggufkit.counting import counted

if TYPE_CHECKING:
    from ggufkit.evaluation.speed import ModelSpeed, PairedSpeed

# llama-bench's heading of a column, where it is not the field's name: tools/llama-bench/llama-bench.cpp
_HEADINGS = {
    "n_threads": "threads",
    "n_gpu_layers": "ngl",
    "flash_attn": "fa",
    "split_mode": "sm",
    "main_gpu": "mg",
    "no_kv_offload": "nkvo",
    "n_cpu_moe": "n_cpu_moe",
    "load_mode": "load_mode",
    "tensor_split": "ts",
    "no_op_offload": "nopo",
    "embeddings": "embd",
}
_ALWAYS = ("n_threads",)
_NOT_SHOWN = {
    "model_filename", "model_type", "model_size", "model_n_params", "n_prompt", "n_gen", "n_depth", "test_time",
    "avg_ns", "stddev_ns", "avg_ts", "stddev_ts", "samples_ns", "samples_ts", "build_commit", "build_number",
    "cpu_info", "gpu_info", "backends",
}  # fmt: skip
_MIB, _GIB = 2**20, 2**30


def _print_markdown(models: Sequence["ModelSpeed"], paired: Sequence["PairedSpeed"], given: Collection[str]) -> None:
    from ggufkit.evaluation.names import told_apart
    from ggufkit.evaluation.speed import rows

    found = rows(models)
    varied = [name for name in found[0] if name not in _NOT_SHOWN and name in models[0].tests[0].columns]
    shown = {*_ALWAYS, *given}
    varied = [name for name in varied if name in shown or len({str(row[name]) for row in found}) > 1]
    heads = ["model", "size", "params", "backend", *(_HEADINGS.get(name, name) for name in varied)]
    table = [[*heads, "test", "t/s", "median", "range", "file"]]
    called = dict(zip([model.path for model in models], told_apart([model.path for model in models]), strict=True))
    names = [called[model.path] for model in models for _ in model.tests]
    for row, name in zip(found, names, strict=True):
        table.append(
            [
                str(row["model_type"]),
                _weights(int(row["model_size"])),
                _count(int(row["model_n_params"])),
                str(row.get("backends", "")),
                *(_cell(row[name]) for name in varied),
                str(row["test"]),
                f"{row['avg_ts']:.2f} ± {row['stddev_ts']:.2f}",
                f"{row['median_ts']:.2f}",
                f"{row['min_ts']:.2f} - {row['max_ts']:.2f}" if row["max_ts"] > row["min_ts"] else "",
                name,
            ]
        )
    _print_table(table, left={0, 3, len(table[0]) - 1})
    for model in models:
        if model.start:
            it = model.start
            print(
                f"\n{called[model.path]}: {_output.size(model.bytes)}, loaded in {it.load_seconds:.2f} s,"
                f" first token {it.first_token_seconds:.2f} s after a prompt of {it.prompt_tokens} tokens,"
                f" {_output.size(it.peak_bytes)} of memory at most"
            )
    for pair in paired:
        print(f"\n{compared(pair, called[pair.first], called[pair.second])}")
    print(f"\nbuild: {found[0].get('build_commit')} ({found[0].get('build_number')})")


def compared(pair: "PairedSpeed", first: str, second: str) -> str:
    """Say in a sentence what the rounds tell of two models; a few of them tell no more than what they gave."""
    from ggufkit.evaluation.speed import ROUNDS_FOR_A_VERDICT

    count = len(pair.ratios)
    if count < ROUNDS_FOR_A_VERDICT:
        each = " and ".join(f"{ratio:.2f}" for ratio in pair.ratios[-2:])
        each = ", ".join([*(f"{ratio:.2f}" for ratio in pair.ratios[:-2]), each])
        return (
            f"{second} was {each} times as fast as {first} at {pair.test}, in {counted(count, 'round')}:"
            f" too few to tell a difference from noise (-r {ROUNDS_FOR_A_VERDICT})"
        )
    extremes = f"{min(pair.ratios):.2f} to {max(pair.ratios):.2f}"
    if not pair.is_clear:
        return (
            f"{second} and {first} differ by less at {pair.test} than {count} rounds can tell:"
            f" {extremes} times as fast, {pair.ratio:.2f} in the median"
        )
    return f"{second} is {pair.ratio:.2f} times as fast as {first} at {pair.test} ({extremes} in all {count} rounds)"


def _print_table(table: Sequence[Sequence[str]], left: set[int]) -> None:
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for number, row in enumerate(table):
        cells = [
            f"{text:<{width}}" if column in left else f"{text:>{width}}"
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        print(f"| {' | '.join(cells)} |")
        if number == 0:
            lines = ["-" * width if column in left else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
            print(f"| {' | '.join(lines)} |")


def _weights(count: int) -> str:
    return f"{count / _GIB:.2f} GiB" if count >= _GIB else f"{count / _MIB:.2f} MiB"


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} B" if parameters >= 1e9 else f"{parameters / 1e6:.2f} M"


def _print_json(models: Sequence["ModelSpeed"], _: Sequence["PairedSpeed"], __: Collection[str]) -> None:
    from ggufkit.evaluation.speed import rows

    print(json.dumps(rows(models), indent=2, ensure_ascii=False))


def _print_lines(models: Sequence["ModelSpeed"], _: Sequence["PairedSpeed"], __: Collection[str]) -> None:
    from ggufkit.evaluation.speed import rows

    for row in rows(models):
        print(json.dumps(row, ensure_ascii=False))


def _print_csv(models: Sequence["ModelSpeed"], _: Sequence["PairedSpeed"], __: Collection[str]) -> None:
    from ggufkit.evaluation.speed import rows

    # As llama-bench has it: the field names bare, the values quoted, and no lists.
    found = [_flat(row) for row in rows(models)]
    text = io.StringIO()
    text.write(",".join(found[0]) + "\n")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([_cell(value) for value in row.values()] for row in found)
    print(text.getvalue(), end="")


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not isinstance(value, list)}


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return "" if value is None else str(value)


# By format; the last argument names the columns that were asked for, which a table shows.
PRINT: dict[str, Callable[[Sequence["ModelSpeed"], Sequence["PairedSpeed"], Collection[str]], None]] = {
    "md": _print_markdown,
    "json": _print_json,
    "jsonl": _print_lines,
    "csv": _print_csv,
}
