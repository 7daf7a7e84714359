"""Whether a model has learned more than three words in a row: its perplexity beside that of a trigram model."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise

import torch

_WINDOW = 512


def model_perplexity(model: torch.nn.Module, ids: Sequence[int]) -> float:
    """exp(mean negative log-likelihood) over windows of 512 tokens, all but the first token of each."""
    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(ids) - 1, _WINDOW):
            window = torch.tensor([ids[start : start + _WINDOW]])
            if window.shape[1] < 2:
                continue
            logits = model(window, use_cache=False).logits[0, :-1]
            losses = torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum")
            total, count = total + losses.item(), count + window.shape[1] - 1
    return math.exp(total / count)


class Trigram:
    """Interpolated absolute discounting over one, two and three tokens (H. Ney, U. Essen, R. Kneser, 1994)."""

    DISCOUNT = 0.75

    def __init__(self, ids: Sequence[int], vocabulary: int) -> None:
        self.vocabulary = vocabulary
        self.counts: list[Counter] = [
            Counter(ids),
            Counter(pairwise(ids)),
            Counter(zip(ids, ids[1:], ids[2:], strict=False)),
        ]
        self.total = len(ids)
        self.followers: list[dict] = []
        for counts in self.counts[1:]:
            found: dict = defaultdict(lambda: [0, 0])
            for key, count in counts.items():
                entry = found[key[:-1]]
                entry[0] += count
                entry[1] += 1
            self.followers.append(found)

    def probability(self, before: Sequence[int], token: int) -> float:
        """P(token | the last two tokens)."""
        value = (self.counts[0][token] + 1 / self.vocabulary) / (self.total + 1)
        for order in (1, 2):
            context = tuple(before[-order:])
            if len(context) < order or context not in self.followers[order - 1]:
                break
            total, kinds = self.followers[order - 1][context]
            own = max(self.counts[order][(*context, token)] - self.DISCOUNT, 0)
            value = (own + self.DISCOUNT * kinds * value) / total
        return value

    def perplexity(self, ids: Sequence[int]) -> float:
        """The same figure, over all tokens but the first."""
        logs = [math.log(self.probability(ids[max(0, place - 2) : place], ids[place])) for place in range(1, len(ids))]
        return math.exp(-sum(logs) / len(logs))
