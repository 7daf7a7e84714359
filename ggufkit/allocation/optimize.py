"""From a model and texts to files of wanted sizes, each with the types that lose the least: the whole work in order."""

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ggufkit.allocation import known_errors, mix
from ggufkit.allocation.candidates import candidates_for, least_of
from ggufkit.allocation.choices import Types
from ggufkit.allocation.chunks import checked_texts
from ggufkit.allocation.cluster import Cluster
from ggufkit.allocation.equalization.equalize import KEY, equalized, identity_with
from ggufkit.allocation.estimate import Before, Estimate, estimate
from ggufkit.allocation.fisher import fisher
from ggufkit.allocation.foresee import CORRECTION_ROUNDS, expected
from ggufkit.allocation.inputs.known import roundings_of
from ggufkit.allocation.knapsack import frontier
from ggufkit.allocation.ledger import Ledger
from ggufkit.allocation.making import Making
from ggufkit.allocation.measuring import Measurer
from ggufkit.allocation.model import Model, open_model
from ggufkit.allocation.options import Effort, OptimizeOptions
from ggufkit.allocation.recording import write_recipe
from ggufkit.allocation.refinement.choosing import chosen_with_refined
from ggufkit.allocation.refinement.lessons import Lessons, check_text, lessons_for
from ggufkit.allocation.refinement.refine import RefinedTensor
from ggufkit.allocation.results import Optimization, Optimized, Probed, frontier_of
from ggufkit.allocation.sensitivity import Sensitivity
from ggufkit.allocation.study import Study, in_the_mix, questions_of, study
from ggufkit.allocation.targets import Target
from ggufkit.allocation.texts import Dealt, Use
from ggufkit.allocation.verification import Candidate, Made, Verified, Verifier, best_of
from ggufkit.allocation.workplace import LEDGER, identity_of, setting_of, speeds_of, workplace
from ggufkit.counting import counted
from ggufkit.errors import LlamaCppError, VerificationError
from ggufkit.evaluation.likelihood.logits_file import estimated_bytes
from ggufkit.evaluation.likelihood.request import Request
from ggufkit.evaluation.likelihood.statistics import PairedDifference, paired_difference
from ggufkit.files import PlannedFile, check_output, check_space
from ggufkit.progress import Progress, silent
from ggufkit.quantization.quantize import quantize

_KEYS = ("ggufkit.recipe.effort", "ggufkit.recipe.budget")

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Job:
    """A size that is wanted and the file that it goes to."""

    target: Target
    output: Path

    @property
    def recipe(self) -> Path:
        """Where the recipe goes."""
        return self.output.with_suffix(".recipe")


def optimize(
    source: Path,
    jobs: Sequence[Job],
    texts: Dealt,
    options: OptimizeOptions,
    *,
    progress: Progress = silent,
    note: Note = lambda text: None,  # noqa: ARG005 - the signature
    warn: Note = lambda text: None,  # noqa: ARG005 - the signature
    estimated: Estimate | None = None,
) -> Optimization:
    """Choose types and make files. The importance matrix is in `options.quantize`.

    `estimated` is what `foresee` has said; without it, the estimate of the result is that of what is left to do when
    the model has read its first text.

    Raises:
        UsageError: a target that no file can have, or a source that is quantized already.
        InputError: the source, the matrix or the texts cannot be used.
        OutputError: there is no room, or an output cannot be written.
        LlamaCppError: llama.cpp failed.
    """
    started = time.monotonic()
    if options.refine:
        check_text(texts.calibration)
    for job in jobs:
        check_output(job.output, inputs=[source])
        check_output(job.recipe, inputs=[source])
    targets, keys = [job.target for job in jobs], _overrides(options, 0)
    search_scales, options = options.quantize.search_scales, _with_scales_of_ggml(options)
    model = plain = open_model(source, options.quantize, options.pool, targets, keys)
    budgets = [model.budget(target) for target in targets]
    with workplace(model, options) as folder, contextlib.ExitStack() as stack:
        ledger = Ledger(folder / LEDGER)
        identity = identity_of(model, options)
        amounts = options.amounts(model.weights)
        probing = setting_of(model, options, identity, texts, Use.PROBING, amounts.probing)
        choosing = setting_of(model, options, identity, texts, Use.CHOOSING, amounts.choosing)
        checked = checked_texts(texts, probing.chunks, choosing.chunks, source, options.running)
        for overlap in checked.overlaps:
            if overlap.is_too_much:
                warn(f"{overlap}: what is measured will look better than it is")
        cluster = stack.enter_context(Cluster(options.workers)) if options.workers else None
        published = _Published(plain, options)
        equal = equalized(model, options, probing, ledger, folder, targets, budgets, keys, progress, note, warn)
        scaled = equal.found if equal is not None else None
        if equal is not None:
            model, options, probing = equal.model, equal.options, equal.probing
            identity = identity_with(scaled, identity)
        if search_scales:
            model = model.with_scales_searched()
            options = replace(options, quantize=replace(options.quantize, search_scales=True))
        measurer = stack.enter_context(Measurer(probing, ledger, folder / "probing", cluster))
        some = probing.chunks
        check_space(
            [PlannedFile(folder / "base", estimated_bytes(some.vocabulary_size, some.length, len(some.tokens)))]
        )
        speeds = speeds_of(measurer, ledger, probing, progress)
        todo = expected(model, options, budgets, ledger, probing)
        found = estimate(speeds, model.choices, todo, Before(), probing, choosing)
        check_space([PlannedFile(folder / "scratch", found.disk_bytes)])

        def told(seconds: Sequence[float]) -> None:
            note(_told_better(found, seconds, found.probes, probing.processes))

        if model.on_lattice:
            note(
                f"{len(model.on_lattice)} of {counted(len(model.choices), 'tensor')} lie on a 4-bit lattice, as"
                " quantization-aware training leaves them: Q4_0 stores these as they are"
            )
        foretold = fisher(plain, options, probing, folder, progress, scaled)
        asked = questions_of(model, options.effort, foretold)
        errors = known_errors.row_errors_of(model, options, amounts.rows, identity, folder, progress)
        try:
            roundings = roundings_of(model, probing, folder, progress)
        except LlamaCppError as error:  # without them types are chosen by what their weights lose
            warn(f"what the rounding of inputs costs could not be measured: {error}")
            roundings = {}
        gains = None
        if search_scales:
            gains = known_errors.gains_of(model, options, amounts.rows, identity, folder, progress)
        known = study(model, asked, errors, measurer, progress, told, foretold, roundings, gains)
        verifier = stack.enter_context(Verifier(choosing, ledger, folder / "choosing", _made(model, options), cluster))
        learning = folder / "refining"
        wants_lessons = jobs and options.refine
        lessons = lessons_for(plain, options, texts, learning, progress, warn, scaled) if wants_lessons else None
        files = []
        for job, budget in zip(jobs, budgets, strict=True):
            mixed = known
            for _ in range(CORRECTION_ROUNDS if options.effort is Effort.THOROUGH else 0):
                mixed = in_the_mix(model, mixed, budget, measurer, progress)
            files.append(
                _file(
                    model,
                    published,
                    job,
                    budget,
                    mixed,
                    measurer,
                    verifier,
                    options,
                    texts,
                    lessons,
                    learning,
                    progress,
                )
            )
        prediction, worse = known.prediction, 1.0
        for each in files:
            if each.preset is not None and (alike := _alike(each.verified, each.preset, model)) is not None:
                prediction = prediction.scaled_by(alike.candidate.types, alike.measured.kld)
                gain = known.gain(alike.candidate.types)
                worse = gain * each.preset.measured.kld / max(alike.measured.kld, 1e-12)
        walked = [(one.size, one.cost) for one in frontier(model.items(known.costs))]
        return Optimization(
            files=tuple(files),
            frontier=frontier_of(
                model, walked, prediction, replace(known.prediction_of_ggml, scale=prediction.scale), worse
            ),
            estimate=estimated or found,
            seconds=time.monotonic() - started,
            model=model,
            texts=checked,
            sensitivities=known.sensitivities,
            compared=_compared(model, options, foretold, measurer, known.floor),
            equalized=scaled.count if scaled is not None else 0,
            scales_searched=any(each.chosen.candidate.scales_searched for each in files),
        )


@dataclass(frozen=True, slots=True)
class _Published:
    """The model as it is, and how everybody makes presets of it."""

    model: Model
    options: OptimizeOptions

    def preset(self, name: str, alike: Verified) -> Candidate:
        """Return a preset of it as a candidate; `alike` has the same types, made as ours are."""
        size = self.model.presets[name].bytes_after
        return Candidate(name, alike.candidate.types, size, math.nan, math.nan, is_preset=True)


def _alike(verified: Sequence[Verified], preset: Verified, model: Model) -> Verified | None:
    """Return the candidate with a preset's types that is made as all others are: the preset itself, or not quite."""
    return next(
        (
            each
            for each in verified
            if each.candidate.types == preset.candidate.types
            and each.candidate.equalized == model.equalized
            and each.candidate.scales_searched == model.options.search_scales
            and not each.candidate.refined
        ),
        None,
    )


def _compared(
    model: Model, options: OptimizeOptions, foretold: Mapping[str, Sensitivity], measurer: Measurer, floor: float
) -> tuple[Probed, ...]:
    """Set what a backward pass says beside the probes that earlier runs have made."""
    found = []
    for group in questions_of(model, options.effort).groups if foretold else ():
        probe = measurer.known(group.types)
        if probe is not None and all(name in foretold for name in group.types):
            cost = sum(foretold[name].cost for name in group.types)
            found.append(Probed(group.name, cost, max(0.0, probe.kld - floor)))
    return tuple(found)


def _file(
    model: Model,
    published: _Published,
    job: Job,
    budget: int,
    known: Study,
    measurer: Measurer,
    verifier: Verifier,
    options: OptimizeOptions,
    texts: Dealt,
    lessons: Lessons | None,
    folder: Path,
    progress: Progress,
) -> Optimized:
    started = time.monotonic()
    prediction = known.prediction
    room = model.room(budget, job.target)
    named = job.target.preset.name if job.target.preset else published.model.largest_preset(room)
    candidates = candidates_for(model, room, known.opinions, prediction, restricted=True, named=named)
    verified = verifier.verify(candidates, progress)
    alike = verified[0] if named is not None else None  # the preset, or its types made as ours are
    if alike is not None:
        prediction = prediction.scaled_by(alike.candidate.types, alike.measured.kld)
    verified = [
        replace(each, candidate=replace(each.candidate, predicted=prediction.of(each.candidate.types)))
        for each in verified
    ]
    best = best_of(verified, least_of(room))
    small = model.weights <= mix.SMALL
    wanted = [each for number, each in enumerate(verified) if small or each is best or number == 0]
    verified = mix.foretold(measurer, verified, wanted, known.floor, prediction.of_inputs, known.gain, progress)
    if model.improved_by and named is not None and alike is not None:
        as_everybody = _made(published.model, published.options)
        verified = [each for each in verified if each.candidate.bytes <= budget]  # the matrix's path may be longer
        verified += verifier.verify([published.preset(named, alike)], progress, as_everybody)
    best = best_of(verified, least_of(room))
    preset = next((each for each in verified if each.candidate.is_preset), None)
    label = model.label(budget, job.target)
    with contextlib.ExitStack() as stack:
        source: Path = model.source
        refined: tuple[RefinedTensor, ...] = ()
        if lessons is not None:
            choice = stack.enter_context(
                chosen_with_refined(
                    model,
                    room,
                    label,
                    verified,
                    known.of_ggml,
                    replace(prediction, costs=known.ggml_costs),
                    verifier,
                    options,
                    lessons,
                    folder,
                    progress,
                )
            )
            best, source, refined = choice.verified, choice.source, choice.tensors
            verified += choice.others
        has_room = bool(model.equalized) and model.size_of(best.candidate.types) <= budget
        if best is preset:
            source, chosen = published.model.source, published.options.quantize
            label = model.presets[preset.candidate.name].type
        elif preset is not None and best.candidate.types == preset.candidate.types and not has_room:
            # It is made in another way: a file of its size has no room for keys of ours.
            label, chosen = model.presets[preset.candidate.name].type, options.quantize
        else:
            more = (KEY,) if model.equalized else ()
            chosen = model.quantize_options(best.candidate.types, (*_overrides(options, budget), *more))
        if best.candidate.refined:
            chosen = replace(chosen, search_scales=False)  # refined weights lie on grids that ggml's encoder finds
        result = quantize(source, label, job.output, chosen, progress=progress)
    if result.bytes_after > budget:
        job.output.unlink()
        raise VerificationError(f"{job.output} has {result.bytes_after:,} bytes, more than the {budget:,} allowed")
    write_recipe(job.recipe, published.model, budget, best, result.bytes_after, label.name, published.options, texts)
    return Optimized(
        target=job.target.said,
        budget=budget,
        output=job.output,
        recipe=job.recipe,
        bytes=result.bytes_after,
        bits_per_weight=result.bits_per_weight_after,
        types=best.candidate.types,
        chosen=best,
        verified=tuple(sorted(verified, key=lambda each: each.measured.kld)),
        preset=preset,
        difference=_difference(best, preset) if preset and preset is not best else None,
        refined=refined,
        seconds=time.monotonic() - started,
    )


def _with_scales_of_ggml(options: OptimizeOptions) -> OptimizeOptions:
    return replace(options, quantize=replace(options.quantize, search_scales=False))


def _difference(best: Verified, preset: Verified) -> PairedDifference:
    ours, theirs = (np.asarray(each.measured.chunks, np.float32)[:, None] for each in (best, preset))
    return paired_difference(ours, theirs)


def _overrides(options: OptimizeOptions, budget: int) -> tuple[tuple[str, str], ...]:
    """The keys that a file of ours has more than a preset's: they say that its types were chosen, and for what size."""
    return ((_KEYS[0], f"str:{options.effort.value}"), (_KEYS[1], f"str:{budget:015d}"))


def _made(model: Model, options: OptimizeOptions) -> Made:
    sources = tuple(str(header.path.absolute()) for header in model.headers)

    def made(types: Types, request: Request) -> Making:
        preset = next((name for name in model.presets if model.preset_types(name) == types), None)
        chosen = options.quantize if preset else model.quantize_options(types)
        return Making(sources, preset or "Q4_K_M", chosen, request)

    return made


def _told_better(found: Estimate, seconds: Sequence[float], groups: int, processes: int) -> str:
    mean = sum(seconds) / len(seconds) / processes
    left = mean * max(0, groups - len(seconds))
    return (
        f"the first {len(seconds)} probes took {mean:.2f} s each ({found.seconds_per_probe:.2f} s were expected);"
        f" about {left:.0f} s for the other {max(0, groups - len(seconds))}"
    )
