"""Placeholder until the command is written."""


def command() -> None:
    """Say nothing yet."""
