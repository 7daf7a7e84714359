"""What running each of several models takes, as `ggufkit plan` knows it: asked once for those of the same shape."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ggufkit.errors import GgufkitError
from ggufkit.gguf_file.parts import read_parts
from ggufkit.gguf_file.reader import GgufHeader
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp.memory import Asking, Setting
from ggufkit.planning import memory
from ggufkit.planning.memory import MemoryModel


class _Weight(NamedTuple):
    """A tensor as it lies in its file; see `planning.memory.Weight`."""

    name: str
    shape: tuple[int, ...]
    to: TensorType
    bytes_after: int


class MemoryNeeds:
    """What models need; those of one shape are asked for once."""

    def __init__(self, first: Asking | None = None) -> None:
        """Ask for the first model a process that waits already, if there is one."""
        self._first = first
        self._asked: dict[object, tuple[MemoryModel, int]] = {}

    def of(self, models: Sequence[Path]) -> list[dict[str, int] | None]:
        """Return bytes for a context as `ggufkit chat` has it, by part; None where libllama does not tell.

        `weights` is the file, mapped; `repacked` what the CPU holds of it a second time; `process` all that is no
        model's.
        """
        found: list[dict[str, int] | None] = []
        for model in models:
            try:
                found.append(self._needs(model))
            except GgufkitError:
                found.append(None)
        return found

    def _needs(self, model: Path) -> dict[str, int] | None:
        if model.is_dir():
            from ggufkit.planning.subject import opened  # here: it knows about checkpoints, which takes time to import

            with opened(str(model)) as subject:
                return self._of(subject.file, subject.headers)
        return self._of(model, read_parts(model))

    def _of(self, file: Path, headers: Sequence[GgufHeader]) -> dict[str, int] | None:
        metadata = headers[0].metadata
        architecture = metadata.get("general.architecture")
        tensors = [tensor for header in headers for tensor in header.tensors]
        shape = (architecture, *sorted((tensor.name, tensor.shape) for tensor in tensors))
        if shape not in self._asked:
            trained = metadata.get(f"{architecture}.context_length")
            most = trained if isinstance(trained, int) and trained > 0 else memory.DEFAULT_CONTEXT
            context = min(most, memory.DEFAULT_CONTEXT)
            # A process that has answered holds memory of the first model, which would count for the next one too.
            asking, self._first = self._first, None
            self._asked[shape] = memory.ask(file, headers, [Setting(context)], asking), context
        answer, context = self._asked[shape]
        takes = answer.of(
            sum(header.file_size for header in headers),
            [_Weight(each.name, each.shape, each.type, each.size) for each in tensors],
        )
        if takes is None:
            return None
        return {
            "context_size": context,
            "weights": takes.file,
            "repacked": takes.repacked,
            "cache": takes.cache + takes.state,
            "compute": takes.compute,
            "process": takes.process,
        }
