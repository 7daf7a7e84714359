"""A model that reads chunks of text, several side by side, and gives the logits of their second halves."""

import queue
from collections import deque
from collections.abc import Callable, Generator, Sequence
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
_LARGE = 1 << 26  # bytes of a chunk's logits; of larger ones one is worked on at a time
_TILE = 64  # tokens; attention over fewer is computed in another order (ggml-cpu/ops.cpp, flash_attn_ext_f16_tiled)


class ChunkReader(LoadedModel):
    """Reads chunks as llama-perplexity does: each for itself, with BOS in place of its first token if the model wants.

    Threads that share the work on one batch wait for each other after every operation, which of small models takes a
    tenth to a quarter of the time. So on a CPU each thread is a reader of its own, with its own context and chunks,
    where memory allows and what is computed stays the same, to the last bit.

    Attributes:
        length: tokens of a chunk.
        side_by_side: how many chunks are read at once where all threads work together.
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

    def each(
        self, chunks: Sequence[Sequence[int]], work: "Callable[[int, Logits, int], Found]"
    ) -> Generator[Found, None, None]:
        """Yield what `work(number, logits, threads)` returns for each chunk, in their order.

        `logits` are float32 [outputs, n_vocab], a view that is valid only within the call. Calls come from several
        threads at once; each may use so many `threads`.

        Raises:
            LlamaCppError: llama.cpp failed, or there is not enough memory.
            GgufFileError: the model cannot continue a text.
            As `work`.
        """
        threads = self.options.threads_batch or self.options.threads or cpu.usable_cores()
        readers, groups = self._shares(len(chunks), threads)
        most = max((len(group) for group in groups), default=1)
        with ExitStack() as stack:
            free: queue.SimpleQueue[_Reader] = queue.SimpleQueue()
            for _ in range(readers):
                free.put(stack.enter_context(self._reader(most, threads // readers)))
            pool = ThreadPoolExecutor(threads)
            stack.callback(pool.shutdown, cancel_futures=True)  # no reader is closed while somebody reads

            def read(group: range) -> list[Found]:
                reader = free.get()
                try:
                    parts = reader.read([self._begun(chunks[number]) for number in group])
                    return [work(number, part, 1) for number, part in zip(group, parts, strict=True)]
                finally:
                    free.put(reader)

            if readers == 1:
                reader = free.get()
                for group in groups:
                    parts = reader.read([self._begun(chunks[number]) for number in group])
                    at_once = 1 if parts[0].nbytes > _LARGE else min(threads, len(parts))
                    for first in range(0, len(parts), at_once):
                        some = parts[first : first + at_once]
                        numbers = group[first : first + len(some)]
                        yield from pool.map(work, numbers, some, [max(1, threads // len(some))] * len(some))
                return
            waiting: deque[Future[list[Found]]] = deque()
            for group in groups:
                waiting.append(pool.submit(read, group))
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

    def _shares(self, count: int, threads: int) -> tuple[int, list[range]]:
        """Return how many readers share the chunks, and the groups that are read at once; 1: all threads work for it.

        llama.cpp computes a batch in parts, with as many tokens of each chunk as of the others. Where that can be few,
        attention over them is computed in another order, and logits would depend on how many chunks are read at once.
        """
        options, part, length = self.options, self.options.micro_batch_size, self.length
        alone = 1, _groups(0, count, self.side_by_side)
        if not self.placement.on_cpu or threads < 2 or length % part or part < _TILE * self.side_by_side:
            return alone
        together = max(1, self.side_by_side // threads)
        row = 4 * self.vocabulary_size
        logits = row * together * self.outputs
        cache = cache_bytes(self._header, together * length, options.cache_type_k, options.cache_type_v)
        # Results wait for their turn, half as wide as logits; and those of a part are computed beside what is kept.
        each = logits + 3 * logits // 2 + cache + row * part
        is_large = self._header.file_size > cpu.available_memory() // 2  # which readers apart would read twice
        if is_large or threads > 1 + _MOST_FOR_READERS // each or threads > -(-count // together):
            return alone
        rest = count % self.side_by_side
        if rest and part % rest:  # a part of so many chunks leaves some tokens of each to another part
            return threads, [*_groups(0, count - rest, together), range(count - rest, count)]
        return threads, _groups(0, count, together)


def _groups(start: int, end: int, size: int) -> list[range]:
    return [range(at, min(at + size, end)) for at in range(start, end, size)]


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
