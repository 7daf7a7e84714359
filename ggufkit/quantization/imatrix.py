"""Importance matrices, as llama-imatrix writes them: which tensors they cover."""

from collections.abc import Mapping
from pathlib import Path

from ggufkit.errors import GgufFileError, InputError
from ggufkit.gguf_file.reader import read_header
from ggufkit.gguf_file.windowed_file import opened

LONGEST_PATH = 127  # bytes: llama-quantize cuts the path that it records in the model after these
_SUFFIX = ".in_sum2"
_MOST_ENTRIES = 1 << 17
_LONGEST_NAME = 1 << 10


def coverage(path: Path, *, any_length: bool = False) -> Mapping[str, int]:
    """Return the number of values that the matrix has for each tensor.

    A tensor of shape (columns, rows, experts) needs columns * experts values. `any_length` is for those who only read
    the matrix: the path is too long only for llama-quantize.

    Raises:
        InputError: there is no such file, it is no importance matrix, or its path is too long to be recorded.
    """
    if len(str(path).encode()) > LONGEST_PATH and not any_length:
        raise InputError(
            f"the path of the importance matrix is longer than {LONGEST_PATH} bytes: {path}",
            hint="llama-quantize records it in the model; move the file or name it from another folder",
        )
    if not path.is_file():
        raise InputError(f"no such importance matrix: {path}", hint="ggufkit imatrix makes one from a model and a text")
    with opened(path) as file:
        is_gguf = file.size >= 4 and file.take(4, "the first four bytes") == b"GGUF"
    if not is_gguf:
        return _legacy_coverage(path)
    header = read_header(path)
    if header.metadata.get("general.type") != "imatrix":
        raise GgufFileError(f"{path} is a GGUF file, but no importance matrix")
    return {
        tensor.name.removesuffix(_SUFFIX): tensor.elements for tensor in header.tensors if tensor.name.endswith(_SUFFIX)
    }


def _legacy_coverage(path: Path) -> Mapping[str, int]:
    """Read the older format, which has no mark of its own; llama-quantize takes gigabytes to refuse a mere text.

    A count, then per tensor: length of the name, name, calls, number of values, and the values as float32.
    """
    covered: dict[str, int] = {}
    try:
        with opened(path) as file:
            count = file.integer("i", "the number of entries")
            if not 1 <= count <= _MOST_ENTRIES:
                raise file.fail(f"{count:,} entries are announced")
            for _ in range(count):
                length = file.integer("i", "the length of a name")
                if not 1 <= length <= _LONGEST_NAME:
                    raise file.fail(f"a name of {length:,} bytes is announced")
                name = file.take(length, "a name").decode("utf-8", "replace")
                file.integer("i", "the number of calls")
                values = file.integer("i", "the number of values")
                if not 1 <= values <= (file.size - file.position) // 4:
                    raise file.fail(f"{values:,} values are announced for {name!r}")
                file.seek(file.position + 4 * values)
                covered[name] = values
    except GgufFileError as error:
        raise InputError(f"{path} is no importance matrix: {str(error).removeprefix(f'{path}: ')}") from None
    return covered
