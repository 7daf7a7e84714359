"""Whether refined weights are shipped: refined candidates stand beside the others, on the same unseen text."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.allocation.candidates import least_of, pick
from ggufkit.allocation.choices import Types
from ggufkit.allocation.making import Making
from ggufkit.allocation.mix import scale_by_others
from ggufkit.allocation.model import Model
from ggufkit.allocation.options import OptimizeOptions
from ggufkit.allocation.prediction import Prediction
from ggufkit.allocation.refinement.lessons import Lessons
from ggufkit.allocation.refinement.refine import (
    RefinedModel,
    RefinedTensor,
    costs_when_refined,
    left_of,
    refined_model,
)
from ggufkit.allocation.sensitivity import Costs, sum_of
from ggufkit.allocation.verification import Candidate, Verified, Verifier, best_of
from ggufkit.evaluation.likelihood.request import Request
from ggufkit.evaluation.likelihood.texts import Chunks
from ggufkit.llamacpp.input_reader import tensor_of
from ggufkit.progress import Progress
from ggufkit.quantization.types import QuantizationType

_VERSION = 13  # of the method: another one gives other weights
# The types are chosen by what refining usually leaves of a loss; then by the opinion whose plain file was the best, or
# where that is the same, by what refining has left of each tensor's loss.
_FIRST, _AGAIN = "grids", "grids again"
_ONE_ONLY = 200_000_000  # weights; of larger models only the first are refined


@dataclass(frozen=True, slots=True)
class RefinedChoice:
    """The best of all; `source` is what it is made of, the model itself or its refined copy."""

    verified: Verified
    others: tuple[Verified, ...]
    source: Path
    tensors: tuple[RefinedTensor, ...]


def refined_candidates(weights: int) -> int:
    """How many candidates are refined for a budget, at most."""
    return 2 if weights < _ONE_ONLY else 1


@contextlib.contextmanager
def chosen_with_refined(
    model: Model,
    budget: int,
    label: QuantizationType,
    verified: Sequence[Verified],
    opinions: Mapping[str, Costs],
    prediction: Prediction,
    verifier: Verifier,
    options: OptimizeOptions,
    lessons: Lessons,
    folder: Path,
    progress: Progress,
) -> Iterator[RefinedChoice]:
    """Refine the most promising types for a budget, measure them, and choose among all.

    `opinions` are costs of weights as ggml's encoder rounds them, of which refining saves, the best trusted first;
    `prediction` knows what rounded inputs cost.

    Raises:
        OutputError: there is no room for copies of the model.
        LlamaCppError: llama.cpp failed.
    """
    plain = best_of(verified, least_of(budget))
    with contextlib.ExitStack() as stack:
        copies: dict[str, RefinedModel] = {}
        found: list[Verified] = []
        left: Mapping[str, float] = {}
        tried: list[Types] = []
        for name, costs in _ways(opinions, plain.candidate.name):
            if len(tried) == refined_candidates(model.weights):
                break
            factors = left if name == _AGAIN else {}
            picked = pick(model, budget, sum_of(costs_when_refined(model, costs, factors), prediction.inputs))
            types = plain.candidate.types if picked is None else model.types_of(picked.options)
            if types in tried or (picked is None and model.equalized):  # whose file may be larger than the preset's
                continue
            place = folder / str(len(tried))
            tried.append(types)
            copy = stack.enter_context(
                refined_model(
                    model, types, lessons.chunks, options.quantize, options.running, place, progress, lessons.outputs
                )
            )
            if not copy.accepted:
                continue

            def made(wanted: Types, request: Request, source: Path = copy.path) -> Making:
                chosen = replace(model.quantize_options(wanted), search_scales=False)  # refined ones lie on grids
                return Making((str(source),), label.name, chosen, request)

            candidate = Candidate(
                f"{name}, refined",
                types,
                plain.candidate.bytes if types == plain.candidate.types else model.size_of(types),
                _predicted(types, copy, replace(prediction, scale=1.0)),
                _predicted(types, copy, prediction),
                refined=_identity(lessons.chunks, copy),
                equalized=model.equalized,
            )
            found += verifier.verify([candidate], progress, made)
            copies[candidate.name] = copy
            left = {tensor: share / left_of(types[tensor]) for tensor, share in _shares(copy).items()}
        found = _foretold_by_each_other(found)
        best = best_of([*verified, *found], least_of(budget))
        used = copies.get(best.candidate.name)
        yield RefinedChoice(best, tuple(found), used.path if used else model.source, used.tensors if used else ())


def _ways(opinions: Mapping[str, Costs], best: str) -> Iterator[tuple[str, Costs]]:
    """Name the ways to choose types, in the order in which they are tried."""
    trusted = next(iter(opinions))
    yield _FIRST, opinions[trusted]
    if best in opinions:
        yield f"grids, {best}", opinions[best]
    yield _AGAIN, opinions[trusted]


def _foretold_by_each_other(found: Sequence[Verified]) -> list[Verified]:
    """Foretell each file in proportion to what the other refined ones have measured."""
    ratios = {
        each.candidate.name: each.measured.kld / each.candidate.predicted
        for each in found
        if each.candidate.predicted > 0 and each.measured.kld > 0
    }

    def better(candidate: Candidate) -> Candidate:
        return replace(candidate, predicted=candidate.predicted * scale_by_others(ratios, but_for=candidate.name))

    return [replace(each, candidate=better(each.candidate)) for each in found]


def _predicted(types: Types, copy: RefinedModel, prediction: Prediction) -> float:
    """Foretell the divergence: each tensor's cost, times what is left of its loss."""
    means = _shares(copy)
    weights = sum(prediction.cost(name, types) * means.get(name, 1.0) for name in prediction.costs)
    return prediction.of_sum(weights, prediction.of_inputs(types))


def _shares(copy: RefinedModel) -> Mapping[str, float]:
    """Say what is left of each tensor's loss, 1 where it was not refined; of experts, their mean."""
    left: dict[str, list[float]] = {}
    for matrix in copy.tensors:
        left.setdefault(tensor_of(matrix.tensor), []).append(matrix.left)
    return {name: sum(shares) / len(shares) for name, shares in left.items()}


def _identity(chunks: Chunks, copy: RefinedModel) -> str:
    """Name what refining has made: which tensors it has changed also depends on the memory that was free."""
    changed = sorted(f"{tensor.tensor} {tensor.after!r}" for tensor in copy.tensors if tensor.accepted)
    return hashlib.sha256(repr((_VERSION, chunks.identity, changed)).encode()).hexdigest()
