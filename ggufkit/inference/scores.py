"""How likely a token was, and what else was likely: log-probabilities before any sampler has changed them."""

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
