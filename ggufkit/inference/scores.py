"""How likely a token was, and what else was likely: log-probabilities before any sampler has changed them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token and the natural logarithm of its probability; `top` holds the likeliest tokens, best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def score(logits: "np.ndarray[Any, np.dtype[np.float32]]", token: int, count: int) -> TokenScore:
    """Score a token by the logits that it was drawn from, float32 [n_vocab], with the `count` likeliest beside it.

    The probabilities are softmax(logits), as OpenAI's and llama.cpp's servers report them; computed in float64.
    """
    import numpy as np

    largest = float(logits.max())
    total = largest + float(np.log(np.exp(logits.astype(np.float64) - largest).sum()))
    count = min(count, len(logits))
    if count:
        best = np.argpartition(logits, -count)[-count:]
        best = best[np.lexsort((best, -logits[best]))]  # equal ones by their number
    else:
        best = np.empty(0, np.int64)
    top = tuple((int(each), float(logits[each]) - total) for each in best)
    return TokenScore(token, float(logits[token]) - total, top)


def as_json(scores: Iterable[TokenScore], bytes_of: Callable[[int], bytes]) -> list[dict[str, Any]]:
    """Return scores as values that JSON has, with tokens named by `bytes_of`.

    `bytes` are exact; in `text` what is no character became U+FFFD. JSON has no infinity: -9999 stands for what a bias
    has ruled out.
    """

    def named(token: int, logprob: float) -> dict[str, Any]:
        data = bytes_of(token)
        return {
            "token": token,
            "text": data.decode("utf-8", "replace"),
            "bytes": list(data),
            "logprob": max(logprob, -9999.0),
        }

    return [
        {**named(each.token, each.logprob), "top": [named(token, logprob) for token, logprob in each.top]}
        for each in scores
    ]
