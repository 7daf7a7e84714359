"""What a verification found: one check after the other, each with a grade, and the verdict that follows from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from ggufkit.errors import VerificationError


class Grade(StrEnum):
    """How a check ended."""

    EXACT = "exact"  # not a bit, id or character differs
    CLOSE = "close"  # it differs by no more than a bound that the check states
    SKIPPED = "skipped"  # not done; the summary says why
    FAILED = "failed"


class Verdict(StrEnum):
    """What the grades say together."""

    PROVEN = "proven"  # every check was done, and none failed
    PARTLY_PROVEN = "partly proven"  # none failed, some were skipped
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """One check. `summary` is a line for people, `details` are more lines, `figures` hold what was measured."""

    name: str
    grade: Grade
    summary: str
    details: tuple[str, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verification:
    """All checks of one GGUF file against its checkpoint."""

    model: Path
    checkpoint: Path
    architecture: str
    checks: tuple[Check, ...]
    seconds: float

    @property
    def verdict(self) -> Verdict:
        """FAILED when one check failed; PROVEN when all were done, and at least one was."""
        grades = [check.grade for check in self.checks]
        if Grade.FAILED in grades:
            return Verdict.FAILED
        return Verdict.PARTLY_PROVEN if Grade.SKIPPED in grades or not grades else Verdict.PROVEN

    def raise_for_failure(self) -> None:
        """Raise VerificationError, naming the checks that failed, if any did."""
        if failed := [check for check in self.checks if check.grade is Grade.FAILED]:
            raise VerificationError(
                f"{self.model} is not what {self.checkpoint} should become: "
                + "; ".join(f"{check.name}: {check.summary}" for check in failed)
            )
