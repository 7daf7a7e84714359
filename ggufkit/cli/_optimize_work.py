"""Choosing types for a size of file: what `ggufkit optimize` and `ggufkit quantize --like` have in common."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ggufkit import files
from ggufkit.cli import _calibration_text, _optimize_source, _optimize_texts, _optimize_view, _optimize_words, _output

if TYPE_CHECKING:
    from ggufkit.allocation.estimate import Estimate
    from ggufkit.allocation.optimize import Job
    from ggufkit.allocation.options import OptimizeOptions
    from ggufkit.allocation.results import Optimization
    from ggufkit.allocation.targets import Target
    from ggufkit.allocation.texts import Dealt
    from ggufkit.progress import Progress
    from ggufkit.quantization.options import QuantizeOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the user asked for."""

    source: Path
    targets: tuple["Target", ...]
    output: str | None
    options: "OptimizeOptions"
    texts: tuple[Path, ...] = ()
    development: tuple[Path, ...] = ()
    between: str = "f16"
    frontier: bool = False
    dry_run: bool = False
    report: Path | None = None
    as_json: bool = False
    quiet: bool = False

    @property
    def silent(self) -> bool:
        """Whether nobody wants to be told how it goes."""
        return self.quiet or self.as_json

    def tell(self, text: str) -> None:
        """Say something to people, where they want to hear it."""
        if not self.silent:
            _output.note(text)


def instead_of_types(
    arguments: Sequence[str],
    *,
    targets: tuple["Target", ...],
    refused: Sequence[str],
    effort: str,
    options: "QuantizeOptions",
    texts: tuple[Path, ...],
    output: str | None,
    between: str,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Do what `ggufkit quantize --like` asks for; `refused` are options given that presets only know.

    Raises:
        UsageError: there is a type beside the size, more than one source, or an option that does not belong here.
        As `run`.
    """
    from ggufkit.allocation.options import OptimizeOptions
    from ggufkit.cli import _model, _quantize_arguments
    from ggufkit.errors import UsageError
    from ggufkit.evaluation.likelihood.passes import Running

    if not targets:
        raise UsageError("--effort is for --like, --target-size and --target-bpw", hint="leave it out")
    if refused:
        raise UsageError(
            f"{refused[0]} decides what --like, --target-size and --target-bpw choose by measuring",
            hint="give only one of both",
        )
    if len(arguments) > 1:
        raise UsageError(
            f"a wanted size says which types there are: only the source is named beside it, not {' '.join(arguments)}",
            hint="for example: ggufkit quantize --like Q4_K_M model-F16.gguf",
        )
    source = Path(arguments[0]) if arguments else _quantize_arguments.only_source()
    run(
        Wish(
            source=_model.resolve(source, quiet=quiet or as_json),
            targets=targets,
            output=output,
            options=OptimizeOptions(
                effort=_optimize_words.effort_named(effort), quantize=options, running=Running(threads=options.threads)
            ),
            texts=texts,
            between=_optimize_words.outtype_named(between),
            dry_run=dry_run,
            as_json=as_json,
            quiet=quiet,
        )
    )


def run(wish: Wish) -> None:
    """Say how long it will take, do it, and show what came of it. A dry run ends before anything is written.

    Raises:
        As `ggufkit.allocation.foresee.foresee` and `ggufkit.allocation.optimize.optimize`.
    """
    from ggufkit.allocation.cluster import check_installed
    from ggufkit.allocation.options import How
    from ggufkit.allocation.refinement.lessons import check_text
    from ggufkit.allocation.workplace import check_state
    from ggufkit.errors import UsageError

    original = wish.options.original
    if original is not None and (wish.source.is_dir() or not (original / "config.json").is_file()):
        raise UsageError(
            "--checkpoint is the folder that SRC, a file, was converted from",
            hint="leave it out" if wish.source.is_dir() else f"{original} holds no config.json",
        )
    if wish.options.sensitivity is How.FISHER and original is None and not wish.source.is_dir():
        raise UsageError(
            f"--sensitivity fisher needs the checkpoint that {wish.source.name} was converted from",
            hint="--checkpoint FOLDER, or give its folder as SRC",
        )
    original = wish.source if wish.source.is_dir() else original
    check_state(wish.options)
    if wish.options.workers:
        check_installed()
    jobs = _jobs(wish)
    for job in jobs:  # before anything that takes time
        if job.recipe == job.output:
            raise UsageError(f"{job.output} is where the recipe goes", hint=f"-o {job.output.with_suffix('.gguf')}")
        for path in (job.output, job.recipe):
            files.check_output(path, inputs=[wish.source])
    if wish.report is not None:
        files.check_output(wish.report, inputs=[wish.source])
    with _output.progress_bar(quiet=wish.silent) as progress, contextlib.ExitStack() as stack:
        model: Path | None = None
        folder: Path | None = wish.options.folder
        if _optimize_source.must_be_converted_first(wish):
            model, folder = stack.enter_context(_optimize_source.as_gguf(wish, progress))
        with _optimize_source.looked_at(wish, model) as look:
            exists = look == (model or wish.source)
            dealt = _optimize_texts.given(wish, look)
            if wish.options.refine and dealt is not None:
                check_text(dealt.calibration)
            options = replace(wish.options, folder=folder, original=original)
            if exists:
                options = _optimize_texts.with_known_matrix(wish, look, jobs, dealt, options)
            found = _estimate(look, jobs, dealt, options, progress, exists=exists)
        _tell_estimate(wish, found)
        if wish.dry_run:
            return
        if model is None:
            model, folder = stack.enter_context(_optimize_source.as_gguf(wish, progress))
        options = replace(options, folder=folder)
        if wish.options.quantize.imatrix is None:
            stack.enter_context(_optimize_texts.only_user(wish, model, jobs, options))
            options = replace(options, quantize=wish.options.quantize)  # until now another run may have replaced it
        dealt = dealt or _optimize_texts.written(wish, model, options, progress)
        options = _optimize_texts.with_matrix(wish, model, jobs, dealt, options, progress)
        done = _optimize(wish, model, jobs, dealt, options, found, progress)
    document = _optimize_view.document(wish.source, done, options)
    if wish.report is not None:
        _optimize_view.write_report(wish.report, document)
    _optimize_view.show(document, done, wish.report, frontier=wish.frontier, as_json=wish.as_json, quiet=wish.quiet)


def _optimize(
    wish: Wish,
    model: Path,
    jobs: Sequence["Job"],
    dealt: "Dealt",
    options: "OptimizeOptions",
    found: "Estimate",
    progress: "Progress",
) -> "Optimization":
    from ggufkit.allocation.optimize import optimize

    return optimize(
        model,
        jobs,
        dealt,
        options,
        progress=progress,
        note=wish.tell,
        warn=_output.warn,
        estimated=found,
    )


def _estimate(
    look: Path,
    jobs: Sequence["Job"],
    dealt: "Dealt | None",
    options: "OptimizeOptions",
    progress: "Progress",
    *,
    exists: bool,
) -> "Estimate":
    """Ask how long it will take; `look` is the model, or a header with nothing behind it that stands for it."""
    from ggufkit.allocation.estimate import Before
    from ggufkit.allocation.foresee import foresee

    threads = options.quantize.threads
    writes = dealt is None and not (exists and _optimize_texts.kept(options, look).exists())
    before = Before(
        converted_bytes=0 if exists else look.stat().st_size,
        written_tokens=(_optimize_texts.OWN_CHUNKS + 1) * options.chunk_tokens if writes else 0,
        calibration_tokens=_optimize_texts.calibration_tokens(dealt, look, options),
    )
    return foresee(
        look,
        [job.target for job in jobs],
        dealt,
        options,
        before,
        written_per_second=_calibration_text.writing_speed(look, threads=threads) if writes else 0.0,
        exists=exists,
        progress=progress,
    )


def _tell_estimate(wish: Wish, found: "Estimate") -> None:
    if wish.dry_run and wish.as_json:
        _output.print_json({"dry_run": True, "estimate": _optimize_view.estimate_document(found)})
    elif wish.dry_run or not wish.silent:
        for line in _optimize_view.estimate_lines(found):
            _output.note(line)


def _jobs(wish: Wish) -> list["Job"]:
    """Choose the file that each target is written to.

    Raises:
        UsageError: several targets for one file.
    """
    from ggufkit.allocation.optimize import Job
    from ggufkit.errors import UsageError
    from ggufkit.quantization.names import output_path
    from ggufkit.quantization.types import quantization_type

    plain = output_path(wish.source, quantization_type("F16"))
    stem = plain.stem.removesuffix("F16")
    given = Path(wish.output) if wish.output else None
    folder = given is not None and (given.is_dir() or (wish.output or "").endswith("/"))
    if given is not None and not folder and len(wish.targets) > 1:
        raise UsageError(
            f"{len(wish.targets)} sizes cannot go to one file: {given}", hint=f"mkdir -p {given}; -o {given}/"
        )
    if given is not None and not folder:
        return [Job(target, given) for target in wish.targets]
    where = given if given is not None else plain.parent
    jobs = [Job(target, where / f"{stem}{target.said}-optimized.gguf") for target in wish.targets]
    for number, job in enumerate(jobs):
        if any(job.output == other.output for other in jobs[:number]):
            raise UsageError(f"two sizes would go to {job.output}", hint="leave one of them out")
    return jobs
