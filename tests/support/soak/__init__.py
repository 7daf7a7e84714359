"""The figures that `scripts/soak` measures: each is a row, made of numbered cases that can be tried again one by one.

A row stands in a module of this package, in the module's list `ROWS`; that is all it takes to be measured, printed by
`scripts/soak --report`, and tried in short (`quick` cases) by tests/faults/test_soak.py. `measure` is given a `Trial`:

    def measure(trial: Trial) -> None:
        model = prepared(trial.folder)                      # a scratch folder, removed afterwards
        for case in trial.cases():                          # numbers, until enough are tried or the time is up
            random = trial.random(case)                     # the same numbers for the same case and seed, always
            if problem := what_happens(model, random):
                trial.broken(case, problem)                 # "file.gguf: traceback", one line
            trial.worst("peak", bytes, limit=200 * 2**20)   # keeps the largest; above the limit it is broken

    ROWS = [Row("mutants", "random GGUF mutants", "0 tracebacks, peak < 200 MiB", measure, count=100_000, quick=300)]

Cases must not depend on each other or on their order: a run that is stopped goes on with the next number. What the
machine cannot do is `trial.skip("why")` before the first case.
"""

import importlib
import pkgutil
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_KEPT_PROBLEMS = 20


class SkippedError(Exception):
    """This machine cannot measure the row; the text says why."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    Attributes:
        name: what `--rows` calls it.
        figure: what is done, as the table of target figures says it.
        target: what must come out.
        measure: does it.
        count: how many cases the figure asks for; 0 when only `measure` can tell, which gives it to `cases` then.
        quick: how many of them the test suite tries; 0 when other tests do that.
        engine: whether the built llama.cpp is needed.
    """

    name: str
    figure: str
    target: str
    measure: Callable[["Trial"], None]
    count: int
    quick: int = 1
    engine: bool = False


@dataclass(slots=True)
class Tried:
    """What is known of a row so far."""

    cases: int = 0
    total: int = 0  # where the row does not say it
    problems: list[str] = field(default_factory=list)
    broken: int = 0
    worst: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    skipped: str = ""
    seconds: float = 0.0
    done: bool = False


class Trial:
    """What a row's `measure` is given: case numbers, chance, a folder, and where to say what was found."""

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        count: int,
        tried: Tried | None = None,
        seconds: float | None = None,
        hurried: bool = True,
    ) -> None:
        self.folder = folder
        self.seed = seed
        self.count = count
        self.tried = tried or Tried()
        self.hurried = hurried  # whether it counts how long something takes; not in tests, on a busy machine
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def cases(self, total: int = 0) -> Iterator[int]:
        """Give the numbers of the cases to try, from 0 or where the last run stopped, at least one.

        Args:
            total: how many there are, where the row cannot know it beforehand.
        """
        first = True
        self.tried.total = total
        count = min(self.count or total, total or self.count)
        while self.tried.cases < count and (first or self._deadline is None or time.monotonic() < self._deadline):
            first = False
            yield self.tried.cases
            self.tried.cases += 1

    def random(self, case: int) -> random.Random:
        """Give chance that is the same whenever this case is tried with this seed."""
        return random.Random(f"{self.seed}:{case}")

    def broken(self, case: int, problem: str) -> None:
        """Note that a case did not come out as it must."""
        self.tried.broken += 1
        if len(self.tried.problems) < _KEPT_PROBLEMS:
            self.tried.problems.append(f"case {case} of seed {self.seed}: {problem}")

    def worst(self, name: str, value: float, limit: float | None = None) -> None:
        """Keep the largest of a value, which is printed; above `limit` it is broken."""
        self.tried.worst[name] = max(value, self.tried.worst.get(name, value))
        if limit is not None and value > limit:
            self.broken(self.tried.cases, f"{name} is {value:,.2f}, at most {limit:,.2f} wanted")

    def took(self, name: str, seconds: float, limit: float) -> None:
        """Keep the longest time; too long a one is broken, but for tests on a machine that may be busy."""
        self.worst(name, seconds, limit if self.hurried else None)

    def add(self, name: str, count: int = 1) -> None:
        """Count something else than cases, which is printed: system calls, files, refusals."""
        self.tried.counts[name] = self.tried.counts.get(name, 0) + count

    def skip(self, why: str) -> None:
        """Give the row up, because this machine cannot measure it."""
        self.tried.skipped = why
        raise SkippedError(why)


def rows() -> list[Row]:
    """Collect the rows of all modules, by the modules' names."""
    names = sorted(found.name for found in pkgutil.iter_modules(__path__))
    return [row for name in names for row in importlib.import_module(f"{__name__}.{name}").ROWS]


def measure(row: Row, folder: Path, **options: Any) -> Tried:
    """Measure a row, or go on with it; `options` are those of `Trial`."""
    trial = Trial(folder, **options)
    try:
        row.measure(trial)
    except SkippedError as reason:
        trial.tried.skipped = str(reason)
    return trial.tried
