"""JSON schemas that nothing can satisfy: llama.cpp makes grammars of them that it never gets past."""

from collections.abc import Iterator, Mapping
from typing import Any

_PAIRS = (
    ("minLength", "maxLength"),
    ("minItems", "maxItems"),
    ("minProperties", "maxProperties"),
    ("minimum", "maximum"),
)


def fault_of_schema(schema: Any) -> str | None:
    """Say what in a schema, as JSON gives it, no document can satisfy; None where nothing is seen."""
    for part in _parts(schema):
        for low, high in _PAIRS:
            least, most = _number(part.get(low)), _number(part.get(high))
            if least is not None and most is not None and least > most:
                return f"has {low} {least} above {high} {most}"
    return None


def patterns_of(schema: Any) -> list[str]:
    """List the regular expressions in a schema."""
    found = (part.get("pattern") for part in _parts(schema))
    return [pattern for pattern in found if isinstance(pattern, str)]


def _parts(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every object inside."""
    waiting = [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _number(value: Any) -> int | float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
