"""Encoders in llama.cpp: what each token of a text becomes; and of pairs such as T5, the logits of their decoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import LlamaCppError
from ggufkit.llamacpp import binding, native

_NO_POOLING = 0  # llama.h: LLAMA_POOLING_TYPE_NONE
_FLOAT32 = 0  # ggml.h: GGML_TYPE_F32
_FLASH_ATTENTION_OFF = 0


class Encoder:
    """A model that reads a whole text at once. Texts of up to `size` tokens; keys and values are kept as float32."""

    def __init__(self, path: Path, *, size: int, threads: int, decodes: bool = False) -> None:
        """Load a model on the CPU; with `decodes`, a pair whose decoder is to be run.

        Raises:
            LlamaCppError: llama.cpp cannot load it, or has not enough memory.
            MissingDependencyError: llama.cpp or its binding is not installed.
        """
        self._model = native.Model(path, gpu_layers=0)
        self._library = self._model.lib
        settings = self._library.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = size  # a text goes in at once
        settings.n_threads = settings.n_threads_batch = threads
        settings.type_k = settings.type_v = _FLOAT32
        settings.flash_attn_type = _FLASH_ATTENTION_OFF
        settings.embeddings = not decodes
        settings.pooling_type = _NO_POOLING
        logged = binding.log_position()
        self._context: Any = self._library.llama_init_from_model(self._model.handle, settings)
        if not self._context:
            self._model.close()
            raise LlamaCppError(f"llama.cpp cannot prepare {size} tokens: {native.log_excerpt(logged)}")

    def close(self) -> None:
        """Free all memory; a second call does nothing."""
        if self._context:
            self._library.llama_free(self._context)
            self._context = None
        self._model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hidden_states(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Give what the last layer makes of each token: float32 [n_tokens, n_embd]. Raises LlamaCppError."""
        self._run("llama_encode", tokens)
        width = int(self._library.llama_model_n_embd(self._model.handle))
        return self._rows(self._library.llama_get_embeddings_ith, len(tokens), width)

    def decoded(self, tokens: Sequence[int], start: Sequence[int]) -> NDArray[np.float32]:
        """Encode a text, and give the logits after each token of `start`: float32 [n_start, n_vocab].

        Raises:
            LlamaCppError: llama.cpp failed.
        """
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), True)
        self._run("llama_encode", tokens)
        self._run("llama_decode", start)
        return self._rows(self._library.llama_get_logits_ith, len(start), self._model.vocabulary_size)

    def _run(self, function: str, tokens: Sequence[int]) -> None:
        batch = self._library.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for place, token in enumerate(tokens):
                batch.token[place], batch.pos[place], batch.logits[place] = token, place, 1
                batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
            logged = binding.log_position()
            if getattr(self._library, function)(self._context, batch):
                raise LlamaCppError(f"llama.cpp's {function} failed: {native.log_excerpt(logged)}")
        finally:
            self._library.llama_batch_free(batch)

    def _rows(self, get: Any, count: int, width: int) -> NDArray[np.float32]:
        rows = [get(self._context, row) for row in range(count)]
        return np.stack([np.ctypeslib.as_array(row, (width,)).copy() for row in rows])
