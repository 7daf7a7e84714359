"""`ggufkit quantize --recipe`: the types of a recipe in place of those of a preset."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ggufkit.cli import _output

if TYPE_CHECKING:
    from ggufkit.conversion import OutputType
    from ggufkit.gguf_file.reader import GgufHeader
    from ggufkit.quantization.options import QuantizeOptions
    from ggufkit.quantization.types import QuantizationType


def taken(
    source: Path, file: Path, options: "QuantizeOptions", output: str | None, between: "OutputType | None"
) -> tuple[list["QuantizationType"], "QuantizeOptions", str]:
    """Read a recipe and return the preset, the options and the output that it comes to; say what does not fit.

    Raises:
        InputError: it is no recipe, or does not fit the source.
        UsageError: the output is named as a split model is.
    """
    from ggufkit.quantization import recipe
    from ggufkit.quantization.names import output_path

    found = recipe.read(file)
    with _headers(source, between) as headers:
        applied = recipe.apply(found, headers, options, weights=not source.is_dir())
    for note in applied.notes:
        _output.warn(note)
    path = output_path(source, applied.type)
    name = f"{path.stem}-recipe{path.suffix}"  # not the preset's own file
    if output is None:
        return [applied.type], applied.options, str(path.with_name(name))
    is_folder = Path(output).is_dir() or output.endswith("/")
    return [applied.type], applied.options, str(Path(output) / name) if is_folder else output


@contextlib.contextmanager
def _headers(source: Path, between: "OutputType | None") -> Iterator[Sequence["GgufHeader"]]:
    from ggufkit.quantization.source import read_model

    if not source.is_dir():
        yield read_model(source)
        return
    from ggufkit.conversion import OutputType
    from ggufkit.one_pass import open_skeleton

    with open_skeleton(source, between or OutputType.F16) as skeleton:
        yield read_model(skeleton.path)
