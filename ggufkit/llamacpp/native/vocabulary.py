"""The vocabulary of a loaded model: text to tokens, tokens to bytes, and what each token is."""

import ctypes
from typing import Any

from ggufkit.errors import LlamaCppError

_UNKNOWN, _CONTROL, _STRIPS_LEFT, _STRIPS_RIGHT = 1 << 0, 1 << 3, 1 << 7, 1 << 8  # llama.h, enum llama_token_attr
_VOCABULARY_NONE = 0  # llama.h, enum llama_vocab_type


class Vocabulary:
    """The tokens of a model; it lives as long as the model."""

    def __init__(self, lib: Any, model: Any) -> None:
        self._lib = lib
        self.handle: Any = lib.llama_model_get_vocab(model)
        self.size: int = lib.llama_vocab_n_tokens(self.handle)
        # Of a file without a tokenizer, llama.cpp aborts when it is asked about the text of tokens.
        self.has_text: bool = lib.llama_vocab_type(self.handle) != _VOCABULARY_NONE
        self._buffer = ctypes.create_string_buffer(256)

    @property
    def wants_bos(self) -> bool:
        """Tell whether the vocabulary asks for a beginning-of-sequence token at the front."""
        return bool(self._lib.llama_vocab_get_add_bos(self.handle))

    @property
    def bos(self) -> int | None:
        """Return the id of the beginning-of-sequence token, if there is one."""
        return _token_or_none(self._lib.llama_vocab_bos(self.handle))

    @property
    def eos(self) -> int | None:
        """Return the id of the end-of-sequence token, if there is one."""
        return _token_or_none(self._lib.llama_vocab_eos(self.handle))

    def ends_generation(self, token: int) -> bool:
        """Tell whether the model says with this token that it has finished."""
        return self.has_text and bool(self._lib.llama_vocab_is_eog(self.handle, token))

    def is_control(self, token: int) -> bool:
        """Tell whether a token is a control or unknown token: matched in text only when specials are parsed."""
        return bool(self._attributes(token) & (_UNKNOWN | _CONTROL))

    def strips_spaces(self, token: int) -> tuple[bool, bool]:
        """Tell whether a special token swallows the white space to its left, and to its right."""
        attributes = self._attributes(token)
        return bool(attributes & _STRIPS_LEFT), bool(attributes & _STRIPS_RIGHT)

    def token_text(self, token: int) -> str:
        """Return a token as the vocabulary spells it (`<|im_end|>`, `Ġthe`), not as it reads in a text."""
        text: bytes = self._lib.llama_vocab_get_text(self.handle, token) if self.has_text else b""
        return text.decode("utf-8", "replace")

    def token_bytes(self, token: int, *, special: bool = False) -> bytes:
        """Return the bytes that a token stands for; control tokens are empty unless `special`."""
        if not self.has_text:
            return b""
        while True:
            size = len(self._buffer)
            length: int = self._lib.llama_token_to_piece(self.handle, token, self._buffer, size, 0, special)
            if length >= 0:
                return self._buffer.raw[:length]
            self._buffer = ctypes.create_string_buffer(-length)

    def tokenize(self, text: bytes, *, add_special: bool, parse_special: bool) -> list[int]:
        """Split UTF-8 text into token ids; raises LlamaCppError when the text is too long for llama.cpp."""
        size = len(text) + 4
        for _ in range(2):
            tokens = (self._lib.llama_token * size)()
            count: int = self._lib.llama_tokenize(
                self.handle, text, len(text), tokens, size, add_special, parse_special
            )
            if count >= 0:
                return list(tokens[:count])
            size = -count
        raise LlamaCppError(f"llama.cpp cannot tokenize a text of {len(text):,} bytes")

    def suppressed(self) -> list[int]:
        """Return the tokens that the model's file says must never be generated."""
        count = ctypes.c_int32(0)
        tokens = self._lib.llama_vocab_get_suppress_tokens(self.handle, ctypes.byref(count))
        return list(tokens[: count.value]) if count.value else []

    def _attributes(self, token: int) -> int:
        return int(self._lib.llama_vocab_get_attr(self.handle, token)) if self.has_text else 0


def _token_or_none(token: int) -> int | None:
    return None if token < 0 else token
