"""What commands print: results on stdout, everything else on stderr; bars that keep quiet when nobody looks."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from ggufkit.progress import Progress, silent

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA_VERSION = 1
_SECONDS_BETWEEN_LINES = 10.0


def stderr() -> "Console":
    """Make the console for people; made late, because rich takes time to import."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def stdout() -> "Console":
    """Make the console for results that are tables; made late, because rich takes time to import."""
    from rich.console import Console

    return Console(highlight=False)


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document, with its schema version, to stdout."""
    print(json.dumps({"schema_version": SCHEMA_VERSION, **document}, indent=2, ensure_ascii=False))


def size(count: int) -> str:
    """Write a number of bytes for people: `7.52 MB` (powers of ten, as disks are sold and models are listed)."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.2f} {unit}"
        value /= 1000
    return f"{value:.2f} TB"


@contextlib.contextmanager
def progress_bar(*, quiet: bool = False) -> Iterator[Progress]:
    """Yield a progress callback: a bar on a terminal, a line every ten seconds elsewhere, nothing when quiet."""
    if quiet:
        yield silent
    elif sys.stderr.isatty():
        with _live_bar() as callback:
            yield callback
    else:
        yield _Lines()


@contextlib.contextmanager
def _live_bar() -> Iterator[Progress]:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars

    common = (TextColumn("{task.description}"), BarColumn())
    by_unit = {
        "bytes": Bars(
            *common, DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(), console=stderr(), transient=True
        ),
        "steps": Bars(*common, MofNCompleteColumn(), TimeRemainingColumn(), console=stderr(), transient=True),
    }
    shown: dict[str, Any] = {"unit": None, "stage": None, "task": None}

    def report(stage: str, done: int, total: int, unit: Literal["bytes", "steps"] = "bytes") -> None:
        if shown["unit"] != unit:
            if shown["unit"]:
                by_unit[shown["unit"]].stop()
            by_unit[unit].start()
            shown.update(unit=unit, stage=None)
        bars = by_unit[unit]
        if shown["stage"] != stage:
            if shown["task"] is not None:
                bars.stop_task(shown["task"])
                for task in bars.task_ids:
                    bars.remove_task(task)
            shown.update(stage=stage, task=bars.add_task(stage, total=total or None))
        bars.update(shown["task"], completed=done, total=total or None)

    try:
        yield report
    finally:
        if shown["unit"]:
            by_unit[shown["unit"]].stop()


class _Lines:
    """A line when a stage takes long: enough for a log file, and not a flood."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, stage: str, done: int, total: int, unit: Literal["bytes", "steps"] = "bytes") -> None:
        now = time.monotonic()
        if now - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = now
            amount = f"{size(done)} of {size(total)}" if unit == "bytes" else f"{done} of {total}"
            print(f"{stage}: {amount}" if total else f"{stage} …", file=sys.stderr, flush=True)


def note(text: str) -> None:
    """Tell a person something on stderr."""
    print(text, file=sys.stderr)


def warn(text: str) -> None:
    """Warn a person on stderr: the result is there, but should be looked at."""
    print(f"warning: {text}", file=sys.stderr)
