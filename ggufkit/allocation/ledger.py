"""What was measured, kept in a file: a line of JSON each, appended as soon as it is known, so that nothing is lost.

A measurement is known by a hash of everything that decides about it, so that whoever asks the same question again (a
run that goes on, or one with another budget) finds the answer.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufkit.allocation.choices import Types


@dataclass(frozen=True, slots=True)
class Measured:
    """A mean divergence in nats, those of the chunks, and how long it took; `tail` is the 99.9th percentile."""

    kld: float
    chunks: tuple[float, ...]
    seconds: float
    encoding_seconds: float = 0.0
    tail: float | None = None
    same_top: float | None = None


class Ledger:
    """The measurements of one state file; without `mends` it is only looked at, and never changed."""

    def __init__(self, path: Path, *, mends: bool = True) -> None:
        self.path, self._mends = path, mends
        self._known: dict[str, Measured] = {}
        self.reload()

    def reload(self) -> None:
        """Read what was appended since the last time; a line that a kill has torn is cut off."""
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if self._mends and whole < len(content):
            os.truncate(self.path, whole)
        for line in content[:whole].splitlines():
            try:
                found = json.loads(line)
                more = [found.get(name) for name in ("tail", "same_top")]
                self._known[str(found["name"])] = Measured(
                    _finite(found["kld"]),
                    tuple(_finite(value) for value in found["chunks"] or [None]),
                    _finite(found["seconds"]),
                    _finite(found.get("encoding_seconds", 0.0)),
                    *(None if value is None else _finite(value) for value in more),
                )
            except (ValueError, RecursionError, KeyError, TypeError, AttributeError, OverflowError):
                continue  # measured once more

    def get(self, name: str) -> Measured | None:
        """Return a measurement, None where there is none yet."""
        return self._known.get(name)

    def add(self, name: str, measured: Measured) -> None:
        """Append a measurement."""
        self._known[name] = measured
        line: dict[str, Any] = {"name": name, "kld": measured.kld, "chunks": measured.chunks}
        line |= {"seconds": measured.seconds, "tail": measured.tail, "same_top": measured.same_top}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _finite(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{value!r} is no figure")
    return value


def key_of(context: str, types: Types) -> str:
    """Name a measurement; `context` says what it was made with."""
    listed = json.dumps([context, sorted((name, kind.name) for name, kind in types.items())])
    return hashlib.sha256(listed.encode()).hexdigest()[:32]


def spelled(types: Types) -> Mapping[str, str]:
    """Give types by their names, as JSON has them."""
    return {name: kind.name for name, kind in types.items()}
