"""A model that reads chunks of text, several side by side, and gives the logits of their second halves."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ggufkit.inference.loaded_model import LoadedModel
from ggufkit.inference.options import EngineOptions
from ggufkit.llamacpp import native
from ggufkit.progress import Progress, silent

if TYPE_CHECKING:
    import numpy as np

_BATCH_TOKENS = 2048  # llama-perplexity's default: so many chunks are read side by side as fit into that
_LARGEST_LOGITS = 1 << 30  # bytes; fewer chunks side by side where the vocabulary is large


class ChunkReader(LoadedModel):
    """Reads chunks as llama-perplexity does: each for itself, with BOS in place of its first token if the model wants.

    Attributes:
        length: tokens of a chunk.
        side_by_side: how many chunks are read at once.
    """

    length: int
    side_by_side: int

    @classmethod
    def reading(
        cls, path: Path, length: int, options: EngineOptions | None = None, *, progress: Progress = silent
    ) -> Self:
        """Load a model to read chunks of `length` tokens. Raises as `LoadedModel.open`."""
        reader = cls.open(path, options, progress=progress)
        reader.length = length
        row = 4 * reader.vocabulary_size
        reader.side_by_side = max(1, min(_BATCH_TOKENS // length, _LARGEST_LOGITS // (row * reader.outputs)))
        return reader

    @property
    def outputs(self) -> int:
        """Tokens of a chunk whose logits are given: those from the middle on."""
        return self.length - self.length // 2

    def read(self, chunks: Sequence[Sequence[int]]) -> "Iterator[np.ndarray[Any, np.dtype[np.float32]]]":
        """Yield the logits of each chunk, float32 [outputs, n_vocab]; a view that is valid until the next is asked for.

        Raises:
            LlamaCppError: llama.cpp failed, or there is not enough memory.
            GgufFileError: the model cannot continue a text.
        """
        first = self.length // 2
        size = self.side_by_side * self.length
        batch = native.SequenceBatch(self._model.lib, size)
        context = self._new_context(
            most_outputs=self.side_by_side * self.outputs, size=size, sequences=self.side_by_side, batch_size=size
        )
        with context:
            for start in range(0, len(chunks), self.side_by_side):
                part = [self._begun(chunk) for chunk in chunks[start : start + self.side_by_side]]
                context.clear()
                batch.clear()
                for sequence, chunk in enumerate(part):
                    batch.add(chunk, 0, sequence, wants_last=False)
                batch.want_from(first)
                context.decode_many(batch)
                rows = context.all_logits(len(part) * self.outputs)
                for index in range(len(part)):
                    yield rows[index * self.outputs : (index + 1) * self.outputs]

    def _begun(self, chunk: Sequence[int]) -> Sequence[int]:
        return [self.bos, *chunk[1:]] if self.wants_bos and self.bos is not None else chunk
