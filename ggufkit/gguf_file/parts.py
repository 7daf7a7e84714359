"""A model that may be split into several GGUF files: all of its headers, found from the first one's name."""

import re
from pathlib import Path

from ggufkit.errors import GgufFileError
from ggufkit.gguf_file.reader import GgufHeader, ValueType, read_header

_PART = re.compile(r"-(\d{5})-of-(\d{5})(?=\.gguf$)")


def read_parts(path: Path) -> list[GgufHeader]:
    """Read the header of a model, or those of all parts of a split one (llama.cpp's `gguf-split` names them).

    Raises:
        GgufFileError: a file is missing or malformed, or `path` is not the first part.
    """
    first = read_header(path)
    count = first.metadata.get("split.count", 0)
    if not isinstance(count, int) or count < 2:
        return [first]
    found = _PART.search(path.name)
    if not found or found[1] != "00001" or int(found[2]) != count:
        raise GgufFileError(
            f"{path} is a part of a split model of {count} files, and not its first",
            hint=f"name the first part, which ends in -00001-of-{count:05d}.gguf",
        )
    headers = [first, *(read_header(part) for part in part_names(path, count)[1:])]
    seen: dict[str, Path] = {}
    for number, header in enumerate(headers):
        _check_place(first, header, number)
        for tensor in header.tensors:
            if tensor.name in seen:
                raise GgufFileError(
                    f"{first.path} and the files beside it are not the parts of one model: tensor {tensor.name!r} is in"
                    f" {seen[tensor.name].name} and in {header.path.name}"
                )
            seen[tensor.name] = header.path
    return headers


def part_names(path: Path, count: int) -> list[Path]:
    """Name all parts of a split model, from the name of the whole or of any part."""
    stem = _PART.sub("", path.name).removesuffix(".gguf")
    return [path.with_name(f"{stem}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1)]


def _check_place(first: GgufHeader, header: GgufHeader, number: int) -> None:
    """See that a part is the one that its name says: llama.cpp takes its number without looking at its kind."""
    entry = header.metadata.entries.get("split.no")
    said = header.metadata["split.no"] if entry else None
    count, said_count = (each.metadata.get("split.count") for each in (first, header))
    if said_count != count:
        raise GgufFileError(
            f"{first.path} and the files beside it are not the parts of one model: {header.path.name} says that there"
            f" are {said_count!r}, not {count}",
            hint="download or split it again",
        )
    if entry is None or entry.kind is not ValueType.UINT16 or said != number:
        raise GgufFileError(
            f"{first.path} and the files beside it are not the parts of one model: {header.path.name} says that it is"
            f" part {said!r} (counted from 0, as UINT16), expected {number}",
            hint="download or split it again",
        )
