"""What is wrong with a Go template, or with what it is given."""


class GoTemplateError(ValueError):
    """The template is not valid, uses what is left out here, or fails on its data as it would in Go."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(f"{message} (line {line})")


class LeftOutError(GoTemplateError):
    """The template uses what Go knows and this package does not."""
