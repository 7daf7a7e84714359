"""What a check of a model finds, one fact each: how bad it is, what is wrong, where, and what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from ggufkit.errors import GgufkitError, InputError, UnsafeError


class Severity(IntEnum):
    """How bad a finding is; larger is worse."""

    NOTE = 0  # worth knowing; nothing is wrong
    WARNING = 1  # works, but perhaps not as meant
    UNFIT = 2  # cannot be used as it is
    UNSAFE = 3  # using it would run foreign code, or leave the folder that it belongs to


_EXIT_CODES = {
    Severity.NOTE: 0,
    Severity.WARNING: 0,
    Severity.UNFIT: InputError.exit_code,
    Severity.UNSAFE: UnsafeError.exit_code,
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact about a model: `where` is a file, a key or a tensor; `hint` the next thing to try, or None."""

    severity: Severity
    what: str
    where: str
    hint: str | None = None

    @classmethod
    def of_error(cls, error: GgufkitError, where: str) -> "Finding":
        """Say as a finding what a reader refused; unsafe stays unsafe, all else is unfit."""
        severity = Severity.UNSAFE if isinstance(error, UnsafeError) else Severity.UNFIT
        return cls(severity, str(error), where, error.hint)


def worst(findings: Iterable[Finding]) -> Severity:
    """Tell the worst severity among findings; a note when there are none."""
    return max((finding.severity for finding in findings), default=Severity.NOTE)


def exit_code(findings: Iterable[Finding]) -> int:
    """Tell the exit code for these findings: that of the error that the worst of them would be raised as, else 0."""
    return _EXIT_CODES[worst(findings)]
