"""The file of a base model's log-probabilities, as `llama-perplexity --kl-divergence-base` writes and reads it.

tools/perplexity/perplexity.cpp: `_logits_`, then n_ctx, n_vocab and n_chunk (int32), n_chunk * n_ctx tokens (int32),
and for each chunk n_ctx - 1 - n_ctx/2 rows of uint16, one for each token of its second half but the last: two float32
(the scale and the smallest log-probability) and n_vocab numbers, padded to an even count. A log-probability is
scale * number + smallest; those more than 16 nats below the row's largest are cut off there.
"""

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import InputError

_MAGIC = b"_logits_"
_FIXED = struct.Struct("<8sIii")
_NUMBERS_BEFORE = 4  # uint16 that hold the two float32
_LARGEST = 65535.0
_CUT_OFF = np.float32(16.0)


@dataclass(frozen=True, slots=True)
class LogitsFile:
    """What such a file holds: chunks of `chunk_tokens` tokens of a vocabulary of so many."""

    path: Path
    chunk_tokens: int
    vocabulary_size: int
    chunks: int

    @property
    def scored(self) -> int:
        """Tokens of a chunk that are predicted: those behind the middle."""
        return self.chunk_tokens - 1 - self.chunk_tokens // 2

    @property
    def row_numbers(self) -> int:
        """The uint16 of one row."""
        return row_numbers(self.vocabulary_size)

    @property
    def chunk_bytes(self) -> int:
        """The bytes of one chunk's rows."""
        return 2 * self.scored * self.row_numbers

    @property
    def data_offset(self) -> int:
        """Where the rows begin."""
        return _FIXED.size + 4 * self.chunks * self.chunk_tokens

    @property
    def size(self) -> int:
        """The bytes of the whole file."""
        return self.data_offset + self.chunks * self.chunk_bytes

    def header(self, tokens: Sequence[Sequence[int]]) -> bytes:
        """The bytes before the rows; `tokens` are those of the chunks."""
        fixed = _FIXED.pack(_MAGIC, self.chunk_tokens, self.vocabulary_size, self.chunks)
        return fixed + np.asarray(tokens, "<i4").tobytes()

    def tokens(self) -> list[list[int]]:
        """Read the tokens of the chunks."""
        with self.path.open("rb") as file:
            file.seek(_FIXED.size)
            flat = np.frombuffer(file.read(4 * self.chunks * self.chunk_tokens), "<i4")
        return [[int(token) for token in chunk] for chunk in flat.reshape(self.chunks, self.chunk_tokens)]

    def rows(self, file: BinaryIO, chunk: int) -> NDArray[np.uint16]:
        """Read the rows of one chunk, uint16 [scored, row_numbers].

        Raises:
            InputError: the file ends before.
        """
        content = os.pread(file.fileno(), self.chunk_bytes, self.data_offset + chunk * self.chunk_bytes)
        if len(content) != self.chunk_bytes:
            raise InputError(f"{self.path} ends within chunk {chunk + 1} of {self.chunks}")
        return np.frombuffer(content, "<u2").reshape(self.scored, self.row_numbers)


def open_logits_file(path: Path) -> LogitsFile:
    """Read the header of a file of log-probabilities, and see that it is whole.

    Raises:
        InputError: it is none, or incomplete.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_FIXED.size)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if len(content) < _FIXED.size or not content.startswith(_MAGIC):
        raise InputError(
            f"{path} is no file of log-probabilities", hint="llama-perplexity --kl-divergence-base makes one"
        )
    _, chunk_tokens, vocabulary_size, chunks = _FIXED.unpack(content)
    if chunk_tokens < 4 or vocabulary_size < 1 or chunks < 1:
        raise InputError(f"{path}: {chunks} chunks of {chunk_tokens} tokens of a vocabulary of {vocabulary_size}")
    found = LogitsFile(path, chunk_tokens, vocabulary_size, chunks)
    if found.size != size:
        raise InputError(f"{path} has {size:,} bytes, expected {found.size:,}: it is not whole")
    return found


def row_numbers(vocabulary_size: int) -> int:
    """The uint16 of one row: the two float32, and the numbers, padded to an even count."""
    return 2 * ((vocabulary_size + 1) // 2) + _NUMBERS_BEFORE


def estimated_bytes(vocabulary_size: int, chunk_tokens: int, chunks: int) -> int:
    """What a file of that many chunks will take on disk."""
    return LogitsFile(Path(), chunk_tokens, vocabulary_size, chunks).size


def encode(logits: NDArray[np.float32], log_sum_exp: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Encode logits, float32 [n, n_vocab], as rows, uint16 [n, row_numbers].

    `log_sum_exp` is the logarithm of the sum of exp(logit - largest logit) of each row, float32 [n].
    """
    count, vocabulary_size = logits.shape
    rows = np.zeros((count, row_numbers(vocabulary_size)), "<u2")
    largest = logits.max(axis=1)
    smallest = np.maximum(logits.min(axis=1), largest - _CUT_OFF)
    scale = (largest - smallest) / np.float32(_LARGEST)
    rows[:, :_NUMBERS_BEFORE] = np.stack([scale, smallest - largest - log_sum_exp], axis=1).astype("<f4").view("<u2")
    varied = scale > 0
    inverse = np.divide(np.float32(1), scale, where=varied, out=np.zeros_like(scale))
    numbers = logits - smallest[:, None]
    numbers *= inverse[:, None]
    np.clip(numbers, 0, _LARGEST, out=numbers)
    np.rint(numbers, out=numbers)
    rows[:, _NUMBERS_BEFORE : _NUMBERS_BEFORE + vocabulary_size] = numbers
    return rows


def decode(rows: NDArray[np.uint16], vocabulary_size: int, out: NDArray[Any] | None = None) -> NDArray[np.float32]:
    """Return the log-probabilities of rows, float32 [n, n_vocab]."""
    scales = np.ascontiguousarray(rows[:, :_NUMBERS_BEFORE]).view("<f4")
    numbers = rows[:, _NUMBERS_BEFORE : _NUMBERS_BEFORE + vocabulary_size]
    result: NDArray[np.float32] = np.multiply(numbers, scales[:, :1], out=out, dtype=np.float32)
    result += scales[:, 1:]
    return result


def likeliest(rows: NDArray[np.uint16], vocabulary_size: int) -> NDArray[np.intp]:
    """Return the likeliest token of each row; of several equal ones the first."""
    found: NDArray[np.intp] = rows[:, _NUMBERS_BEFORE : _NUMBERS_BEFORE + vocabulary_size].argmax(axis=1)
    return found
