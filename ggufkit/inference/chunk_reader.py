"""A model that reads chunks of text, several side by side, and gives the logits of their second halves."""

import queue
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ggufkit.inference.loaded_model import LoadedModel
from ggufkit.inference.model_file import cache_bytes
from ggufkit.inference.options import EngineOptions
from ggufkit.llamacpp import cpu, native
from ggufkit.progress import Progress, silent

if TYPE_CHECKING:
    import numpy as np

    Logits = np.ndarray[Any, np.dtype[np.float32]]

Found = TypeVar("Found")

_BATCH_TOKENS = 2048  # llama-perplexity's default: so many chunks are read side by side as fit into that
_LARGEST_LOGITS = 1 << 30  # bytes; fewer chunks side by side where the vocabulary is large
_MOST_FOR_READERS = 1 << 28  # bytes that all readers but the first may take


class ChunkReader(LoadedModel):
    """Reads chunks as llama-perplexity does: each for itself, with BOS in place of its first token if the model wants.

    Threads that share the work on one batch wait for each other after every operation, which of small models takes a
    tenth to a quarter of the time. So on a CPU each thread is a reader of its own, with its own context and chunks, as
    far as memory allows; what is computed is the same, to the last bit.

    Attributes:
        length: tokens of a chunk.
        side_by_side: how many chunks are read at once, by all readers together.
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

    def each(self, chunks: Sequence[Sequence[int]], work: "Callable[[int, Logits, int], Found]") -> Iterator[Found]:
        """Yield what `work(number, logits, threads)` returns for each chunk, in their order.

        `logits` are float32 [outputs, n_vocab], a view that is valid only within the call. Calls come from several
        threads at once; each may use so many `threads`.

        Raises:
            LlamaCppError: llama.cpp failed, or there is not enough memory.
            GgufFileError: the model cannot continue a text.
            As `work`.
        """
        threads = self.options.threads_batch or self.options.threads or cpu.usable_cores()
        readers = self._readers(len(chunks), threads)
        together = max(1, self.side_by_side // readers)
        with ExitStack() as stack:
            free: queue.SimpleQueue[_Reader] = queue.SimpleQueue()
            for _ in range(readers):
                free.put(stack.enter_context(self._reader(together, threads // readers)))
            pool = ThreadPoolExecutor(threads)
            stack.callback(pool.shutdown, cancel_futures=True)  # no reader is closed while somebody reads

            def read(start: int) -> list[Found]:
                reader = free.get()
                try:
                    parts = reader.read([self._begun(chunk) for chunk in chunks[start : start + together]])
                    return [work(start + number, part, 1) for number, part in enumerate(parts)]
                finally:
                    free.put(reader)

            starts = range(0, len(chunks), together)
            if readers == 1:
                reader = free.get()
                for start in starts:
                    parts = reader.read([self._begun(chunk) for chunk in chunks[start : start + together]])
                    share = max(1, threads // len(parts))
                    numbers = range(start, start + len(parts))
                    yield from pool.map(work, numbers, parts, [share] * len(parts))
                return
            waiting: deque[Future[list[Found]]] = deque()
            for start in starts:
                waiting.append(pool.submit(read, start))
                if len(waiting) > 2 * readers:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()

    def _begun(self, chunk: Sequence[int]) -> Sequence[int]:
        return [self.bos, *chunk[1:]] if self.wants_bos and self.bos is not None else chunk

    def _reader(self, together: int, threads: int) -> "_Reader":
        size = together * self.length
        context = self._new_context(
            most_outputs=together * self.outputs, size=size, sequences=together, batch_size=size, threads=threads
        )
        return _Reader(context, native.SequenceBatch(self._model.lib, size), self.length // 2)

    def _readers(self, chunks: int, threads: int) -> int:
        """Return how many contexts the chunks are shared out to, each with one thread; 1: all threads work on one."""
        if not self.placement.on_cpu or threads < 2:
            return 1
        together = max(1, self.side_by_side // threads)
        logits = 4 * self.vocabulary_size * together * self.outputs
        options = self.options
        cache = cache_bytes(self._header, together * self.length, options.cache_type_k, options.cache_type_v)
        # The largest of what is computed for a part of the batch are its logits.
        computed = 4 * self.vocabulary_size * min(options.micro_batch_size, together * self.length)
        most = 1 + _MOST_FOR_READERS // (logits + cache + computed)
        return threads if threads <= min(most, -(-chunks // together)) else 1


class _Reader:
    """A context that reads some chunks side by side. Use it as a context manager."""

    def __init__(self, context: native.Context, batch: native.SequenceBatch, first: int) -> None:
        self._context, self._batch, self._first = context, batch, first

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.close()

    def read(self, chunks: Sequence[Sequence[int]]) -> "list[Logits]":
        """Return the logits of each chunk from its token `first` on: views, valid until the next are read."""
        self._context.clear()
        self._batch.clear()
        for sequence, chunk in enumerate(chunks):
            self._batch.add(chunk, 0, sequence, wants_last=False)
        self._batch.want_from(self._first)
        self._context.decode_many(self._batch)
        ends = accumulate(len(chunk) - self._first for chunk in chunks)
        rows = self._context.all_logits(sum(len(chunk) - self._first for chunk in chunks))
        return [rows[end - len(chunk) + self._first : end] for chunk, end in zip(chunks, ends, strict=True)]
