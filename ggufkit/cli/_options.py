"""The options that several commands share, spelled once, with the names that llama.cpp's users know."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

MOST_THREADS = 512  # GGML_MAX_N_THREADS: llama.cpp takes no more
MOST_TOKENS = 2**31 - 1  # it counts them in 32 bits


class NotAChoice(typer.BadParameter):
    """What a callback raises for a value that is none of a few; the nearest of them goes to the hint."""

    def __init__(self, value: str, choices: Iterable[str]) -> None:
        self.value = value
        self.choices = [str(choice) for choice in choices]
        super().__init__(f"{value!r} is none of {', '.join(self.choices)}")


def _output_path(text: str) -> Path:
    """Read a path; a slash at the end, which a path does not keep, must be that of a folder which is there."""
    path = Path(text)
    if text.endswith(os.sep) and not path.is_dir():
        from ggufkit.errors import OutputError

        raise OutputError(f"there is no folder {text}", hint=f"mkdir -p {text}")
    return path


Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", parser=_output_path, metavar="<path>", help="Where to write.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress and no summary; print only the path.")]
Threads = Annotated[
    int | None,
    typer.Option(
        "-t", "--threads", min=1, max=MOST_THREADS, help="CPU threads; default: the physical cores that we may use."
    ),
]
