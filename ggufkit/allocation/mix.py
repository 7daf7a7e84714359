"""Foretelling a mix of types by measuring it as a whole: on the probing text, in the weights of a scratch copy.

That is what a sum over tensors cannot know: how their errors act together. What the rounding of inputs costs in a file
is added. What is different besides (it reads other text) is learned from the other files, of which both are known. One
of them says little, for a few tokens may decide its mean; so the median of all counts.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ggufkit.allocation.choices import Types
from ggufkit.allocation.measuring import Measurer
from ggufkit.allocation.verification import Verified
from ggufkit.progress import Progress

SMALL = 300_000_000  # weights: up to here every candidate is measured so, of larger models the best one only
_MOST_SCALE = 4.0


def mixes_measured(weights: int, candidates: int) -> int:
    """How many mixes are measured of so many candidates."""
    return candidates if weights <= SMALL else 2


def foretold(
    measurer: Measurer,
    verified: Sequence[Verified],
    wanted: Sequence[Verified],
    floor: float,
    of_inputs: Callable[[Types], float],
    gain: Callable[[Types], float],
    progress: Progress,
) -> list[Verified]:
    """Give the candidates of `wanted` what was measured of their mix as `predicted`; the others keep theirs.

    `of_inputs` says what rounded inputs cost in a choice of types, and `gain` what better scales than those of ggml's
    encoder leave, as a share.

    Raises:
        As `Measurer.measure`.
    """
    answers = measurer.measure([_quantized(each.candidate.types) for each in wanted], progress, "Measuring mixes")
    klds = {
        each.candidate.name: (answer.kld - floor) * gain(each.candidate.types) + of_inputs(each.candidate.types)
        for each, answer in zip(wanted, answers, strict=True)
    }
    ratios = {
        each.candidate.name: each.measured.kld / klds[each.candidate.name]
        for each in wanted
        if klds[each.candidate.name] > 0 and each.measured.kld > 0
    }
    return [
        replace(
            each,
            candidate=replace(
                each.candidate,
                predicted=klds[each.candidate.name] * scale_by_others(ratios, but_for=each.candidate.name),
            ),
        )
        if klds.get(each.candidate.name, 0.0) > 0
        else each
        for each in verified
    ]


def scale_by_others(ratios: Mapping[str, float], *, but_for: str) -> float:
    """How much more the other files diverge than their mixes; of the file itself nothing may be known yet."""
    others = [math.log(ratio) for name, ratio in ratios.items() if name != but_for]
    scale = math.exp(statistics.median(others)) if others else 1.0
    return min(_MOST_SCALE, max(1 / _MOST_SCALE, scale))


def _quantized(types: Types) -> Types:
    return {name: kind for name, kind in types.items() if kind.is_quantized}
