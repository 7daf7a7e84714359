"""Rows of `ggufkit bench -o json` (or jsonl), and of llama-bench itself, put to the models that they are about."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ggufkit.errors import InputError
from ggufkit.llamacpp.bench import settings_told_apart

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
    except RecursionError:
        return None
    except ValueError:
        try:
            found = [json.loads(line) for line in text.splitlines() if line.strip()]
        except (ValueError, RecursionError):
            return None
    rows = found if isinstance(found, list) else [found]
    if not rows or not all(isinstance(row, dict) and "model_filename" in row and "avg_ts" in row for row in rows):
        return None
    read(rows, source)
    return rows


def read(rows: Sequence[Mapping[str, Any]], source: str) -> list[TestSpeed]:
    """Read rows. Raises InputError when one is malformed."""
    try:
        settings: dict[int, str] = {}
        for file in {str(row["model_filename"]) for row in rows}:
            places = [place for place, row in enumerate(rows) if str(row["model_filename"]) == file]
            told = settings_told_apart([rows[place] for place in places])
            settings.update(zip(places, told, strict=True))
        return [_row(row, settings[place]) for place, row in enumerate(rows)]
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise InputError(f"{source} holds speeds that are malformed: {type(error).__name__} {error}") from None


def of_files(found: Sequence[TestSpeed], files: Sequence[str]) -> list[TestSpeed]:
    """Keep the speeds of these files, under their names: names have as many folders as tell the files apart."""
    kept = []
    for speed in found:
        parts = PurePosixPath(speed.file).parts
        owners = {file for file in files if parts[-len(PurePosixPath(file).parts) :] == PurePosixPath(file).parts}
        if len(owners) == 1:
            kept.append(replace(speed, file=owners.pop()))
    return kept


def _row(row: Mapping[str, Any], settings: str) -> TestSpeed:
    samples = [_finite(value) for value in row.get("samples_ts") or [row["avg_ts"]]]
    parts = [f"{name}{row[key]}" for name, key in (("pp", "n_prompt"), ("tg", "n_gen")) if row[key]]
    peak = row.get("peak_bytes")
    return TestSpeed(
        file=str(row.get("file") or row["model_filename"]),
        test="+".join(parts) + (f" @ d{row['n_depth']}" if row.get("n_depth") else "") + (settings and f", {settings}"),
        median=statistics.median(samples),
        low=min(samples),
        high=max(samples),
        repeats=len(samples),
        peak_bytes=None if peak is None else int(peak),
        load_seconds=None if row.get("load_seconds") is None else _finite(row["load_seconds"]),
        first_token_seconds=None if row.get("first_token_seconds") is None else _finite(row["first_token_seconds"]),
    )


def _finite(value: Any) -> float:
    number = float(value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{value!r} is no speed or time")
    return number


def attach(runs: "Sequence[Run]", rows: Sequence[Mapping[str, Any]], source: Path) -> "list[Run]":
    """Give each run the speeds of its files.

    Raises:
        InputError: none of the rows is about a model of these runs.
    """
    speeds = read(rows, str(source))
    kept = [of_files(speeds, run.files) for run in runs]
    if not any(kept):
        names = sorted({PurePosixPath(speed.file).name for speed in speeds})
        raise InputError(
            f"{source} has speeds of {', '.join(names)}, none of which is compared",
            hint="measure the same files: ggufkit bench MODEL... -o json > BENCH.json",
        )
    return [
        replace(
            run,
            speeds=(*run.speeds, *own),
            raw={**run.raw, "bench": [*run.raw.get("bench", ()), *rows]},
        )
        for run, own in zip(runs, kept, strict=True)
    ]
