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

    def clear(self) -> None:
        """Hold nothing."""
        self.handle.n_tokens = 0

    def add(self, tokens: Sequence[int], position: int, sequence: int, *, wants_last: bool) -> int:
        """Add tokens of one sequence from a position on, and want the logits after the last one, or none.

        Returns the place of the last one in the batch.
        """
        start = int(self.handle.n_tokens)
        end = start + len(tokens)
        self._tokens[start:end] = tokens
        self._positions[start:end] = range(position, position + len(tokens))
        self._sequences[start:end] = sequence
        self._wanted[start:end] = 0
        self._wanted[end - 1] = wants_last
        self.handle.n_tokens = end
        return end - 1

    def want_from(self, position: int) -> None:
        """Want the logits after every token at this position of its sequence or behind it."""
        count = self.handle.n_tokens
        self._wanted[:count] = self._positions[:count] >= position

    def fill_one_each(self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int]) -> None:
        """Hold one token for each of several sequences, and want the logits after each."""
        count = len(tokens)
        self._tokens[:count] = tokens
        self._positions[:count] = positions
        self._sequences[:count] = sequences
        self._wanted[:count] = 1
        self.handle.n_tokens = count
