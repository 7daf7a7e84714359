"""What the command line says about choosing types, in words, as values."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ggufkit.allocation.options import Effort, How
    from ggufkit.allocation.targets import Target


def targets_of(likes: Sequence[str], sizes: Sequence[str], bits: Sequence[float]) -> tuple["Target", ...]:
    """Read the sizes that are wanted. Raises UsageError."""
    from ggufkit.allocation import targets

    found = [targets.like(word) for text in likes for word in text.split(",") if word]
    found += [targets.size(word) for text in sizes for word in text.split(";") if word]
    found += [targets.bits_per_weight(value) for value in bits]
    return tuple(dict.fromkeys(found))


def effort_named(name: str) -> "Effort":
    """Read the name of an effort. Raises UsageError."""
    from ggufkit.allocation.options import Effort
    from ggufkit.errors import UsageError

    try:
        return Effort(name.lower())
    except ValueError:
        raise UsageError(f"unknown effort {name!r}", hint=f"one of {', '.join(Effort)}") from None


def sensitivity_named(name: str) -> "How":
    """Read how it is found out which tensors matter. Raises UsageError."""
    from ggufkit.allocation.options import How
    from ggufkit.errors import UsageError

    try:
        return How(name.lower())
    except ValueError:
        raise UsageError(f"unknown sensitivity {name!r}", hint=f"one of {', '.join(How)}") from None


def outtype_named(name: str) -> str:
    """Read what a checkpoint is converted to. Raises UsageError."""
    from ggufkit.errors import UsageError

    if name.lower() not in {"f16", "bf16", "f32"}:
        raise UsageError(f"--outtype {name!r} is none of f16, bf16 and f32", hint="leave it out for f16")
    return name.lower()
