"""The recipe of a GGUF model, from its headers; and what tells one model from another."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from ggufkit.errors import InputError
from ggufkit.gguf_file.parts import read_parts
from ggufkit.gguf_file.reader import GgufHeader, TensorInfo
from ggufkit.quantization.planned import stripped
from ggufkit.quantization.recipe.recipe import Recipe
from ggufkit.quantization.types import is_writable, type_numbered


def recipe_of(path: Path) -> Recipe:
    """Read the types of a model's matrices, in the order of the file. No weights are read.

    Raises:
        GgufFileError: the file is malformed, or not the first part of a split model.
        InputError: it holds no matrices.
    """
    headers = read_parts(path)
    metadata = headers[0].metadata
    tensors = {tensor.name: tensor.type for tensor in matrices(headers) if is_writable(tensor.type)}
    if not tensors:
        raise InputError(f"{path} holds no matrices, so there is no recipe")
    number = metadata.get("general.file_type")
    kind = type_numbered(number) if isinstance(number, int) else None
    architecture, name = metadata.get("general.architecture"), metadata.get("general.name")
    return Recipe(
        tensors=tensors,
        architecture=architecture if isinstance(architecture, str) else None,
        file_type=kind.name if kind else None,
        model_name=name if isinstance(name, str) else None,
        layout_sha256=layout_hash(headers),
        file_bytes=sum(header.file_size for header in headers),
    )


def matrices(headers: Sequence[GgufHeader]) -> list[TensorInfo]:
    """Choose the tensors of two or more axes."""
    return [tensor for header in headers for tensor in header.tensors if len(stripped(tensor.shape)) > 1]


def layout_hash(headers: Sequence[GgufHeader]) -> str:
    """Hash the names and shapes of all tensors, whatever their order and types: SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    for name, shape in sorted((tensor.name, stripped(tensor.shape)) for header in headers for tensor in header.tensors):
        digest.update(f"{name} {' '.join(map(str, shape))}\n".encode())
    return digest.hexdigest()


def hash_file(paths: Iterable[Path]) -> str:
    """Hash the bytes of a model's files, one after the other: SHA-256 in hexadecimal; of one file, that file's own."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while piece := file.read(1 << 22):
                digest.update(piece)
    return digest.hexdigest()
