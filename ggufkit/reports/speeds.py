"""Rows of `ggufkit bench -o json` (or jsonl), and of llama-bench itself, put to the models that they are about."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ggufkit.errors import InputError

if TYPE_CHECKING:
    from ggufkit.reports.reading import Run


@dataclass(frozen=True, slots=True)
class TestSpeed:
    """One test of a model, in tokens per second: the median, and between which values the repeats lie."""

    file: str
    test: str
    median: float
    low: float
    high: float
    repeats: int
    peak_bytes: int | None
    load_seconds: float | None
    first_token_seconds: float | None


def parse(text: str, source: str) -> list[dict[str, Any]] | None:
    """Take rows of a speed test out of a file's text; None where it is something else.

    Raises:
        InputError: they are rows of a speed test, but not usable.
    """
    try:
        found = json.loads(text)
    except ValueError:
        try:
            found = [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError:
            return None
    rows = found if isinstance(found, list) else [found]
    if not rows or not all(isinstance(row, dict) and "model_filename" in row and "avg_ts" in row for row in rows):
        return None
    read(rows, source)
    return rows


def read(rows: Sequence[Mapping[str, Any]], source: str) -> list[TestSpeed]:
    """Read rows. Raises InputError when one is malformed."""
    try:
        return [_row(row) for row in rows]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{source} holds speeds that are malformed: {type(error).__name__} {error}") from None


def _row(row: Mapping[str, Any]) -> TestSpeed:
    samples = [float(value) for value in row.get("samples_ts") or [row["avg_ts"]]]
    parts = [f"{name}{row[key]}" for name, key in (("pp", "n_prompt"), ("tg", "n_gen")) if row[key]]
    peak = row.get("peak_bytes")
    return TestSpeed(
        file=PurePosixPath(str(row["model_filename"])).name,
        test="+".join(parts) + (f" @ d{row['n_depth']}" if row.get("n_depth") else ""),
        median=statistics.median(samples),
        low=min(samples),
        high=max(samples),
        repeats=len(samples),
        peak_bytes=None if peak is None else int(peak),
        load_seconds=None if row.get("load_seconds") is None else float(row["load_seconds"]),
        first_token_seconds=None if row.get("first_token_seconds") is None else float(row["first_token_seconds"]),
    )


def attach(runs: "Sequence[Run]", rows: Sequence[Mapping[str, Any]], source: Path) -> "list[Run]":
    """Give each run the speeds of its files.

    Raises:
        InputError: none of the rows is about a model of these runs.
    """
    speeds = read(rows, str(source))
    named = {model.file for run in runs for model in (run.base, *run.models)}
    if not any(speed.file in named for speed in speeds):
        raise InputError(
            f"{source} has speeds of {', '.join(sorted({speed.file for speed in speeds}))}, none of which is compared",
            hint="measure the same files: ggufkit bench MODEL... -o json > BENCH.json",
        )
    return [
        replace(
            run,
            speeds=(*run.speeds, *(it for it in speeds if it.file in {m.file for m in (run.base, *run.models)})),
            raw={**run.raw, "bench": [*run.raw.get("bench", ()), *rows]},
        )
        for run in runs
    ]
