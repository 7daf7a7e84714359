"""Tokens of several sequences in one call: llama.cpp's `llama_batch`, filled through arrays that are made once."""

import ctypes
from collections.abc import Sequence
from typing import Any


class SequenceBatch:
    """Room for up to `capacity` tokens, each at a position of a sequence, some of which want their logits."""

    def __init__(self, lib: Any, capacity: int) -> None:
        import numpy as np  # chats do without it

        self.capacity = capacity
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._sequences = np.zeros(capacity, np.int32)
        self._counts = np.ones(capacity, np.int32)  # every token belongs to one sequence
        self._wanted = np.zeros(capacity, np.int8)
        first, stride = self._sequences.ctypes.data, self._sequences.itemsize
        self._places = np.arange(first, first + capacity * stride, stride, dtype=np.uintp)  # pointers to the sequences
        self.handle: Any = lib.llama_batch()
        for member, array in (
            ("token", self._tokens),
            ("pos", self._positions),
            ("n_seq_id", self._counts),
            ("seq_id", self._places),
            ("logits", self._wanted),
        ):
            kind = dict(lib.llama_batch._fields_)[member]  # the types that ctypes wants
            setattr(self.handle, member, ctypes.cast(array.ctypes.data, kind))

    def fill(self, tokens: Sequence[int], position: int, sequence: int, *, wants_last: bool) -> None:
        """Hold tokens of one sequence from a position on, and ask for the logits after the last one, or for none."""
        count = len(tokens)
        self._tokens[:count] = tokens
        self._positions[:count] = range(position, position + count)
        self._sequences[:count] = sequence
        self._wanted[:count] = 0
        self._wanted[count - 1] = wants_last
        self.handle.n_tokens = count

    def fill_chunks(self, chunks: Sequence[Sequence[int]], position: int, *, wanted_from: int) -> None:
        """Hold a chunk of each of several sequences, numbered from 0, all of one length and from one position on.

        The logits are asked for after every token at the position `wanted_from` or behind it.
        """
        length = len(chunks[0])
        for sequence, tokens in enumerate(chunks):
            place = slice(sequence * length, (sequence + 1) * length)
            self._tokens[place] = tokens
            self._positions[place] = range(position, position + length)
            self._sequences[place] = sequence
        count = length * len(chunks)
        self._wanted[:count] = self._positions[:count] >= wanted_from
        self.handle.n_tokens = count

    def fill_one_each(self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int]) -> None:
        """Hold one token for each of several sequences, and ask for the logits after each."""
        count = len(tokens)
        self._tokens[:count] = tokens
        self._positions[:count] = positions
        self._sequences[:count] = sequences
        self._wanted[:count] = 1
        self.handle.n_tokens = count
