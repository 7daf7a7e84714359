"""The options that several commands share, spelled once, with the names that llama.cpp's users know."""

from pathlib import Path
from typing import Annotated

import typer

Output = Annotated[Path | None, typer.Option("-o", "--output", help="Where to write.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress and no summary; print only the path.")]
Threads = Annotated[
    int | None,
    typer.Option("-t", "--threads", min=1, help="CPU threads; default: the physical cores that we may use."),
]
