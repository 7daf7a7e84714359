"""A model that writes whatever comes to it: texts side by side, every token drawn from all of its probabilities."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ggufkit.inference.loaded_model import LoadedModel
from ggufkit.inference.model_file import cache_bytes
from ggufkit.llamacpp import cpu, native

if TYPE_CHECKING:
    import numpy as np

    Tokens = np.ndarray[Any, np.dtype[np.int32]]

_SIDE_BY_SIDE = 64
_MOST_MEMORY = 1 << 30  # bytes, or a quarter of what is free: for caches, logits and draws
_LEAST_CELLS = 256  # llama-context.cpp rounds the room of a sequence up to so many tokens
_LEAST = 1e-30  # of what is drawn, so that its logarithm is a number


class FreeWriter(LoadedModel):
    """Writes texts without a prompt. Where a text ends, the next one begins, as in the packed text of training."""

    def write(self, count: int, length: int, *, seed: int = 0) -> "Iterator[Tokens]":
        """Yield `count` texts of `length` tokens, int32 [n, length], some at a time.

        They begin with the token that texts of this model begin with, or with any where there is none. The same for
        the same seed.

        Raises:
            LlamaCppError: llama.cpp failed.
            InputError: there is no memory for a single text.
            GgufFileError: the model cannot continue a text.
        """
        import numpy as np

        chance = np.random.default_rng(seed)
        together = self._side_by_side(count, length)
        batch = native.SequenceBatch(self._model.lib, together)
        context = self._new_context(
            most_outputs=together, size=together * length, sequences=together, batch_size=together
        )
        with context:
            for start in range(0, count, together):
                sequences = list(range(min(together, count - start)))
                texts = np.empty((len(sequences), length), np.int32)
                texts[:, 0] = self._first(len(sequences), chance)
                context.clear()
                for place in range(length - 1):
                    batch.fill_one_each(texts[:, place].tolist(), [place] * len(sequences), sequences)
                    context.decode_many(batch)
                    logits = context.all_logits(len(sequences))
                    # The largest of logits less the logarithms of exponential draws is a draw from their softmax.
                    drawn = chance.standard_exponential(logits.shape, np.float32)
                    np.log(np.maximum(drawn, _LEAST, out=drawn), out=drawn)
                    texts[:, place + 1] = np.subtract(logits, drawn, out=drawn).argmax(axis=1)
                yield texts

    def _side_by_side(self, count: int, length: int) -> int:
        """Return how many texts are written at once: as many as memory has room for, shared out evenly."""
        options, cells = self.options, max(length, _LEAST_CELLS)
        each = cache_bytes(self._header, cells, options.cache_type_k, options.cache_type_v) + 8 * self.vocabulary_size
        room = min(_MOST_MEMORY, cpu.available_memory() // 4) // each
        groups = -(-count // max(1, min(count, _SIDE_BY_SIDE, room)))
        return -(-count // groups)

    def _first(self, count: int, chance: "np.random.Generator") -> "Tokens":
        import numpy as np

        known = self.bos if self.wants_bos and self.bos is not None else self.eos
        if known is not None:
            return np.full(count, known, np.int32)
        return chance.integers(0, self.vocabulary_size, count, np.int32)
