"""A model that is split into several GGUF files as the bytes of one, as `llama-gguf-split --merge` writes it."""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.errors import GgufFileError
from ggufkit.gguf_file.reader import GgufHeader, tensor_bytes
from ggufkit.gguf_file.rewrite import NewFile, rewrite
from ggufkit.progress import Progress, silent

_CHUNK = 4 << 20
_OF_PARTS = ("split.no", "split.count", "split.tensors.count", "general.alignment")


@dataclass(frozen=True, slots=True)
class Merged:
    """What the parts are together; nothing of their weights is read yet."""

    parts: tuple[GgufHeader, ...]
    file: NewFile

    @property
    def size(self) -> int:
        """The bytes of the whole."""
        return self.file.size

    def chunks(self, progress: Progress = silent, stage: str = "merging") -> Iterator[bytes]:
        """Give the bytes of the whole, piece by piece. Raises GgufFileError when a part has changed."""
        yield self.file.header
        done = len(self.file.header)
        sources = ((part, tensor) for part in self.parts for tensor in part.tensors)
        for (part, tensor), placed in zip(sources, self.file.tensors, strict=True):
            yield bytes(placed.offset - done)
            with tensor_bytes(part, tensor) as content:
                for start in range(0, len(content), _CHUNK):
                    yield bytes(content[start : start + _CHUNK])  # the mapping must not outlive its block
                    progress(stage, placed.offset + start, self.size)
            done = placed.offset + placed.size
        yield bytes(self.size - done)
        progress(stage, self.size, self.size)

    def sha256(self, progress: Progress = silent) -> str:
        """Hash the whole without writing it; hexadecimal."""
        state = hashlib.sha256()
        for chunk in self.chunks(progress, "hashing"):
            state.update(chunk)
        return state.hexdigest()

    def write(self, target: Path, progress: Progress = silent) -> str:
        """Write the whole to a new file, whose data is not yet flushed; returns its hash."""
        state = hashlib.sha256()
        with target.open("xb") as file:
            for chunk in self.chunks(progress):
                state.update(chunk)
                file.write(chunk)
        return state.hexdigest()


def merge(parts: Sequence[GgufHeader]) -> Merged:
    """Lay out the whole: the metadata of the first part but for what is said of parts, and the tensors of all.

    Raises:
        GgufFileError: the parts are not of one model.
    """
    first = parts[0]
    tensors = list(itertools.chain.from_iterable(part.tensors for part in parts))
    wanted = first.metadata.get("split.tensors.count", len(tensors))
    names = {tensor.name for tensor in tensors}
    numbers = [part.metadata.get("split.no") for part in parts]
    if len(names) != len(tensors) or wanted != len(tensors) or numbers != list(range(len(parts))):
        raise GgufFileError(
            f"{first.path} and the files beside it are not the parts of one model: "
            f"{len(names)} tensors, {wanted} announced",
            hint="download all parts again",
        )
    placed = [(tensor.name, tensor.shape, tensor.type) for tensor in tensors]
    return Merged(tuple(parts), rewrite(first, without=_OF_PARTS, tensors=placed))
