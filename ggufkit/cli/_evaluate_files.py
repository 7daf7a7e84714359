"""What `ggufkit eval` reads and what it writes: no file may be both, and no two outputs the same."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ggufkit.errors import UsageError
from ggufkit.files import check_output

_PART = re.compile(r"(?P<name>.+)-\d{5}-of-(?P<count>\d{5})\.gguf")
_OURS = (b'"kind": "evaluation"', b"_logits_", b"<!doctype html")  # in the first bytes of what we write
_FIRST_BYTES = 300


def check_outputs(outputs: Mapping[str, Path | None], inputs: Sequence[Path]) -> None:
    """Refuse, before any work, outputs (by their flags) that must not be written where they are to go.

    Of a split model all parts are inputs; in a folder that is one, only what such a command wrote may be replaced.

    Raises:
        UsageError: an output is an input, or another output.
        OutputError: as `files.check_output`.
    """
    read = [file for path in inputs for file in _files_of(path)]
    folders = [path.resolve() for path in inputs if path.is_dir()]
    written: dict[Path, str] = {}
    for flag, path in outputs.items():
        if path is None:
            continue
        check_output(path, inputs=read)
        place = path.resolve()
        if place in written:
            raise UsageError(f"{written[place]} and {flag} name the same file: {path}", hint="give each its own name")
        written[place] = flag
        if path.exists() and any(place.is_relative_to(folder) for folder in folders) and not _is_ours(path):
            raise UsageError(f"output and input are the same file: {path}", hint=f"name another file with {flag}")


def _files_of(path: Path) -> Iterator[Path]:
    yield path
    if part := _PART.fullmatch(path.name):
        yield from path.parent.glob(f"*-of-{part['count']}.gguf")


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(_FIRST_BYTES).lower()
    return any(mark in start for mark in _OURS)
