"""Choosing the next token in C: a chain of llama.cpp's samplers, and a grammar that is asked only when it must be."""

import ctypes
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ggufkit.errors import InputError, LlamaCppError
from ggufkit.llamacpp.grammar_text import check_grammar
from ggufkit.llamacpp.native.context import Context
from ggufkit.llamacpp.native.library import stderr_caught
from ggufkit.llamacpp.native.model import Model

_AN_EXAMPLE = 'such as root ::= "yes" | "no"'
_NEVER = float("-inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerSettings:
    """What the chain does, in llama.cpp's terms; the values that switch a sampler off are the defaults here."""

    seed: int
    temperature: float = 1.0  # 0: always the likeliest token
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 64
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    logit_bias: tuple[tuple[int, float], ...] = ()
    grammar: str | None = None  # GBNF with a rule `root`


class Sampler:
    """Turns logits into the next token.

    The order is that of llama.cpp's own programs. As there, a token is drawn first and the grammar asked about it
    alone; only when it says no are all tokens put before the grammar, and one is drawn again.
    """

    def __init__(self, model: Model, settings: SamplerSettings) -> None:
        """Build the chain.

        Raises:
            InputError: the grammar is not valid.
        """
        self.lib = model.lib
        self._model = model
        self._grammar: Any = None
        self._candidates: Any = None
        self.looks_back = False  # whether it matters which tokens came before
        self._banned: frozenset[int] | None = None  # of a chain that only takes the likeliest token but these
        self.handle: Any = self.lib.llama_sampler_chain_init(self.lib.llama_sampler_chain_default_params())
        try:
            if settings.grammar is not None:
                self._grammar = self._new_grammar(settings.grammar)
            self._fill(settings)
        except BaseException:
            self.close()
            raise

    def _fill(self, settings: SamplerSettings) -> None:
        lib, vocabulary = self.lib, self._model.vocabulary
        banned = [(token, _NEVER) for token in vocabulary.suppressed()]
        bias = [*settings.logit_bias, *banned]
        if bias:
            biases = (lib.llama_logit_bias * len(bias))(*bias)
            self._add(lib.llama_sampler_init_logit_bias(vocabulary.size, len(bias), biases))
        penalties = (settings.repeat_penalty, settings.frequency_penalty, settings.presence_penalty)
        if penalties != (1.0, 0.0, 0.0) and settings.repeat_last_n != 0:
            self.looks_back = True
            self._add(lib.llama_sampler_init_penalties(vocabulary.size, settings.repeat_last_n, *penalties))
        if settings.dry_multiplier > 0:
            self.looks_back = True
            breakers = [text.encode() for text in settings.dry_sequence_breakers]
            self._add(
                lib.llama_sampler_init_dry(
                    vocabulary.handle,
                    settings.dry_multiplier,
                    settings.dry_base,
                    settings.dry_allowed_length,
                    settings.dry_penalty_last_n,
                    (ctypes.c_char_p * len(breakers))(*breakers),
                    len(breakers),
                )
            )
        if settings.temperature <= 0:
            self._add(lib.llama_sampler_init_greedy())
            if not self.looks_back and self._grammar is None and all(change == _NEVER for _, change in bias):
                self._banned = frozenset(token for token, _ in bias)
            return
        if settings.top_n_sigma >= 0:
            self._add(lib.llama_sampler_init_top_n_sigma(settings.top_n_sigma))
        if settings.top_k > 0:
            self._add(lib.llama_sampler_init_top_k(settings.top_k))
        if settings.typical_p < 1:
            self._add(lib.llama_sampler_init_typical(settings.typical_p, 0))
        if settings.top_p < 1:
            self._add(lib.llama_sampler_init_top_p(settings.top_p, 0))
        if settings.min_p > 0:
            self._add(lib.llama_sampler_init_min_p(settings.min_p, 0))
        if settings.xtc_probability > 0:
            threshold = settings.xtc_threshold
            self._add(lib.llama_sampler_init_xtc(settings.xtc_probability, threshold, 0, settings.seed))
        self._add(lib.llama_sampler_init_temp(settings.temperature))
        self._add(lib.llama_sampler_init_dist(settings.seed))

    def _add(self, sampler: Any) -> None:
        self.lib.llama_sampler_chain_add(self.handle, sampler)

    def _new_grammar(self, text: str) -> Any:
        check_grammar(text)
        with stderr_caught() as told:  # the parser prints its complaint instead of logging it
            grammar = self.lib.llama_sampler_init_grammar(self._model.vocabulary.handle, text.encode(), b"root")
        if not grammar:
            reason = next(
                (line.strip() for line in told if line.strip()),
                "it has no rule named root, or one that begins with itself",
            )
            reason = reason.removeprefix("parse: error parsing grammar: ")
            raise InputError(f"the grammar is not valid GBNF: {reason}", hint=_AN_EXAMPLE)
        return grammar

    def accept(self, tokens: Sequence[int]) -> None:
        """Count tokens of the prompt for the penalties; the grammar is about the reply only."""
        for token in tokens:
            self.lib.llama_sampler_accept(self.handle, token)

    def sample(self, context: Context, row: int = -1) -> int:
        """Choose the token after a place of the last batch (-1: its last), and count it.

        Raises:
            LlamaCppError: the grammar allows none of the tokens, or the model computes no numbers.
        """
        if self._banned is not None:
            # The same token without the chain's list of all candidates, which costs more than finding it.
            likeliest = context.likeliest(row)
            if likeliest not in self._banned:
                return likeliest
        if self._grammar is None:
            drawn: int = self.lib.llama_sampler_sample(self.handle, context.handle, row)
            return drawn
        token = self._draw(context, row)
        if not self._allowed(token):
            token = self._draw(context, row, grammar_first=True)
            if not self._allowed(token):
                raise LlamaCppError("the grammar allows no token of this vocabulary here")
        self.lib.llama_sampler_accept(self._grammar, token)
        self.lib.llama_sampler_accept(self.handle, token)
        return token

    def drawing_from(self, context: Context) -> Callable[[], int]:
        """Return `sample` for the end of each batch of a context, called in as little time as Python allows."""
        if self._grammar is not None or self._banned is not None:
            return functools.partial(self.sample, context)
        return functools.partial(self.lib.llama_sampler_sample, self.handle, context.handle, -1)

    def _draw(self, context: Context, row: int, *, grammar_first: bool = False) -> int:
        import numpy as np

        if self._candidates is None:
            size = context.vocabulary_size
            self._candidates = np.zeros(size, np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")]))
        candidates = self._candidates
        candidates["id"] = np.arange(len(candidates), dtype=np.int32)
        candidates["logit"] = context.last_logits(row)
        data = candidates.ctypes.data_as(self.lib.llama_token_data_p)
        array = self.lib.llama_token_data_array(data=data, size=len(candidates), selected=-1, sorted=False)
        if grammar_first:
            self.lib.llama_sampler_apply(self._grammar, ctypes.byref(array))
        self.lib.llama_sampler_apply(self.handle, ctypes.byref(array))
        return int(array.data[array.selected].id)

    def _allowed(self, token: int) -> bool:
        one = (self.lib.llama_token_data * 1)(self.lib.llama_token_data(id=token, logit=1.0, p=0.0))
        array = self.lib.llama_token_data_array(
            data=ctypes.cast(one, self.lib.llama_token_data_p), size=1, selected=-1, sorted=False
        )
        self.lib.llama_sampler_apply(self._grammar, ctypes.byref(array))
        return bool(one[0].logit != _NEVER)

    def close(self) -> None:
        """Free the chain."""
        for sampler in (self.handle, self._grammar):
            if sampler:
                self.lib.llama_sampler_free(sampler)
        self.handle = self._grammar = None
