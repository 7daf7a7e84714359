"""Importance matrices, as llama-imatrix writes them: which tensors they cover."""

from collections.abc import Mapping
from pathlib import Path

from ggufkit.errors import GgufFileError, InputError
from ggufkit.gguf_file.reader import read_header

LONGEST_PATH = 127  # bytes: llama-quantize cuts the path that it records in the model after these
_SUFFIX = ".in_sum2"


def coverage(path: Path) -> Mapping[str, int] | None:
    """Return the number of values that the matrix has for each tensor; None for the legacy format, not read here.

    A tensor of shape (columns, rows, experts) needs columns * experts values.

    Raises:
        InputError: there is no such file, it is a GGUF file of another kind, or its path is too long to be recorded.
    """
    if len(str(path).encode()) > LONGEST_PATH:
        raise InputError(
            f"the path of the importance matrix is longer than {LONGEST_PATH} bytes: {path}",
            hint="llama-quantize records it in the model; move the file or name it from another folder",
        )
    if not path.is_file():
        raise InputError(f"no such importance matrix: {path}", hint="llama-imatrix makes one from a model and a text")
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                return None
    except OSError as error:
        raise InputError(f"cannot read the importance matrix {path}: {error.strerror}") from error
    header = read_header(path)
    if header.metadata.get("general.type") != "imatrix":
        raise GgufFileError(f"{path} is a GGUF file, but no importance matrix")
    return {
        tensor.name.removesuffix(_SUFFIX): tensor.elements for tensor in header.tensors if tensor.name.endswith(_SUFFIX)
    }
