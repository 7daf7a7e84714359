"""How many of what, in words: `1 prompt`, `1,024 prompts`."""


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Write a number of things; the plural is the noun with an s unless it is given."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"
