"""What people write behind `ggufkit quantize`, told apart: types, a source, outputs, and types of single tensors."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ggufkit.gguf_file.tensor_types import TensorType
    from ggufkit.quantization.types import QuantizationType

EXAMPLE = "for example: ggufkit quantize Q4_K_M model-F16.gguf"


def complete(incomplete: str) -> list[str]:
    """Offer types, and the files and folders that could be a source."""
    from ggufkit.quantization.types import TYPES

    done, comma, last = incomplete.rpartition(",")
    names = [f"{done}{comma}{kind.name}" for kind in TYPES if kind.name.startswith(last.upper())]
    folder = Path(incomplete).parent if not incomplete.endswith("/") else Path(incomplete)
    with contextlib.suppress(OSError):
        paths = [path for path in folder.iterdir() if str(path).startswith(incomplete)]
        names += sorted(str(path) for path in paths if path.suffix == ".gguf" or path.is_dir())
    return names


def sort_arguments(
    arguments: Sequence[str], *, recipe: Path | None = None
) -> tuple[list["QuantizationType"], Path | None]:
    """Tell types from the source, in whatever order they come; None where no source is named.

    A recipe says all types, so that there is only a source beside it.

    Raises:
        UsageError: no type, an unknown type, or more than one source.
        InputError: what looks like no type is no file either.
    """
    from ggufkit.errors import InputError, UsageError
    from ggufkit.quantization.offered import offered_type
    from ggufkit.quantization.types import find_type, nearest_types

    def names_types(argument: str) -> bool:
        return any(find_type(part) for part in argument.split(","))

    def is_path(argument: str) -> bool:
        return argument.lower().endswith(".gguf") or os.sep in argument or Path(argument).exists()

    if recipe is not None:
        if len(arguments) > 1 or (arguments and not is_path(arguments[0])):
            raise UsageError(
                f"--recipe {recipe} says which types there are, so only the source is named beside it, not"
                f" {' '.join(arguments)}",
                hint=f"ggufkit quantize --recipe {recipe} model-F16.gguf",
            )
        return [], Path(arguments[0]) if arguments else None
    types = [argument for argument in arguments if names_types(argument)]
    others = [argument for argument in arguments if not names_types(argument)]
    if not others and len(types) > 1:
        # A folder may be named as a type is.
        others = [argument for argument in types if Path(argument).exists()][:1]
        types = [argument for argument in types if argument not in others]
    paths = [argument for argument in others if is_path(argument)]
    strangers = [argument for argument in others if argument not in paths]
    if types and not paths and len(strangers) == 1 and not nearest_types(strangers[0]):
        raise InputError(f"no such file or folder, and no type either: {strangers[0]}", hint=EXAMPLE)
    types += strangers
    if len(paths) > 1:
        raise UsageError(
            f"one source at a time, not {' and '.join(paths)}",
            hint=f"{EXAMPLE} -o smaller.gguf (the output goes to -o)",
        )
    kinds = [offered_type(part) for argument in types for part in argument.split(",") if part]
    if not kinds:
        raise UsageError(
            f"no type is given for {paths[0]}" if paths else "no type and no source are given",
            hint=f"{EXAMPLE}; --list shows all types",
        )
    return list(dict.fromkeys(kinds)), Path(paths[0]) if paths else None


def output_paths(
    source: Path, kinds: Sequence["QuantizationType"], output: str | None
) -> list[tuple["QuantizationType", Path]]:
    """Choose the file that each type is written to.

    Raises:
        UsageError: one file is named for several types.
    """
    from ggufkit.errors import UsageError
    from ggufkit.quantization.names import output_path

    if output is None:
        return [(kind, output_path(source, kind)) for kind in kinds]
    path = Path(output)
    folder = names_folder(output) or (len(kinds) > 1 and path.suffix.lower() != ".gguf")
    if path.is_dir() or (folder and not path.exists()):
        return [(kind, path / output_path(source, kind).name) for kind in kinds]
    if folder and names_folder(output):
        raise UsageError(f"{output} is no folder, but a file", hint="name another with -o")
    if len(kinds) > 1:
        raise UsageError(f"{len(kinds)} types cannot go to one file: {output}", hint=f"mkdir -p {output}; -o {output}/")
    return [(kinds[0], path)]


def names_folder(output: str | None) -> bool:
    """Whether -o says by a slash at its end that it is a folder."""
    return output is not None and output.endswith(os.sep)


def only_source() -> Path:
    """Find the one unquantized model in the current folder, so that `ggufkit quantize Q4_K_M` is enough."""
    from ggufkit.errors import GgufFileError, UsageError
    from ggufkit.gguf_file.reader import read_header

    found = []
    for path in sorted(Path().glob("*.gguf")):
        with contextlib.suppress(GgufFileError):
            header = read_header(path)
            if header.metadata.get("general.file_type") in {0, 1, 32}:
                found.append(path)
    if len(found) != 1:
        said = f"{len(found)} here are unquantized: {', '.join(map(str, found))}" if found else "none is in this folder"
        raise UsageError(f"no source is given, and {said}", hint=EXAMPLE)
    return found[0]


def tensor_types(patterns: Sequence[str], file: Path | None) -> tuple[tuple[str, "TensorType"], ...]:
    """Read `REGEX=TYPE`, given one by one and in a file, where white space parts them; those of the file come last.

    Raises:
        UsageError: one is not of that form.
        InputError: the file cannot be read.
    """
    from ggufkit.cli._words import why
    from ggufkit.errors import InputError

    words = list(patterns)
    if file:
        try:
            words += file.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the tensor types in {file}: {why(error)}") from None
    return tuple(_pattern(word) for word in words)


def _pattern(text: str) -> tuple[str, "TensorType"]:
    from ggufkit.errors import UsageError
    from ggufkit.quantization.types import tensor_type

    pattern, equals, name = text.partition("=")
    if not pattern or not equals or not name:
        raise UsageError(
            f"--tensor-type {text!r} is not of the form REGEX=TYPE", hint="such as --tensor-type attn_v=q8_0"
        )
    return pattern, tensor_type(name)


def layers(text: str) -> tuple[int, ...]:
    """Read `0,3,7` or `4-7`: the layers to prune.

    Raises:
        UsageError: it is not of that form.
    """
    from ggufkit.errors import UsageError

    chosen: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise UsageError(f"--prune-layers {text!r} is not a list of layers", hint="such as --prune-layers 20,21,22")
        chosen |= set(range(int(first), int(last if dash else first) + 1))
    return tuple(sorted(chosen))


def override(text: str) -> tuple[str, str]:
    """Read `KEY=TYPE:VALUE`. Raises UsageError when it is not of that form."""
    from ggufkit.errors import UsageError

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(
            f"--override-kv {text!r} is not of the form KEY=TYPE:VALUE",
            hint="such as --override-kv tokenizer.ggml.add_bos_token=bool:false",
        )
    return key, value
