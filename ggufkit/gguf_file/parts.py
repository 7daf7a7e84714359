"""A model that may be split into several GGUF files: all of its headers, found from the first one's name."""

import re
from pathlib import Path

from ggufkit.errors import GgufFileError
from ggufkit.gguf_file.reader import GgufHeader, read_header

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
    names = [_PART.sub(f"-{number:05d}-of-{count:05d}", path.name) for number in range(2, count + 1)]
    return [first, *(read_header(path.with_name(name)) for name in names)]
