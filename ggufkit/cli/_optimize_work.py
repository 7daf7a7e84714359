"""Choosing types for a size of file: what `ggufkit optimize` and `ggufkit quantize --like` have in common."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ggufkit import files
from ggufkit.cli import _calibration_text, _optimize_view, _output

if TYPE_CHECKING:
    from ggufkit.allocation.estimate import Estimate
    from ggufkit.allocation.optimize import Job
    from ggufkit.allocation.options import Effort, How, OptimizeOptions
    from ggufkit.allocation.targets import Target
    from ggufkit.allocation.texts import Dealt, Document
    from ggufkit.progress import Progress
    from ggufkit.quantization.options import QuantizeOptions

_OWN_CHUNKS = 36  # of text that the model writes itself, for all three uses together
_CALIBRATION_CHUNKS = 200


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
    as_json: bool = False
    quiet: bool = False

    @property
    def silent(self) -> bool:
        """Whether nobody wants to be told how it goes."""
        return self.quiet or self.as_json


def targets_of(likes: Sequence[str], sizes: Sequence[str], bits: Sequence[float]) -> tuple["Target", ...]:
    """Read the sizes that are wanted. Raises UsageError."""
    from ggufkit.allocation import targets

    found = [targets.like(word) for text in likes for word in text.split(",") if word]
    found += [targets.size(word) for text in sizes for word in text.split(";") if word]
    found += [targets.bits_per_weight(value) for value in bits]
    return tuple(dict.fromkeys(found))


def effort_named(name: str) -> "Effort":
    """Read the name of an effort. Raises UsageError."""
    from ggufkit.allocation.options import Effort
    from ggufkit.errors import UsageError

    try:
        return Effort(name.lower())
    except ValueError:
        raise UsageError(f"unknown effort {name!r}", hint=f"one of {', '.join(Effort)}") from None


def sensitivity_named(name: str) -> "How":
    """Read how it is found out which tensors matter. Raises UsageError."""
    from ggufkit.allocation.options import How
    from ggufkit.errors import UsageError

    try:
        return How(name.lower())
    except ValueError:
        raise UsageError(f"unknown sensitivity {name!r}", hint=f"one of {', '.join(How)}") from None


def outtype_named(name: str) -> str:
    """Read what a checkpoint is converted to. Raises UsageError."""
    from ggufkit.errors import UsageError

    if name.lower() not in {"f16", "bf16", "f32"}:
        raise UsageError(f"--outtype {name!r} is none of f16, bf16 and f32", hint="leave it out for f16")
    return name.lower()


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
                effort=effort_named(effort), quantize=options, running=Running(threads=options.threads)
            ),
            texts=texts,
            between=outtype_named(between),
            dry_run=dry_run,
            as_json=as_json,
            quiet=quiet,
        )
    )


def run(wish: Wish) -> None:
    """Do it, and show what came of it. Raises as `ggufkit.allocation.optimize.optimize`."""
    from ggufkit.allocation.optimize import optimize
    from ggufkit.allocation.options import How
    from ggufkit.errors import UsageError

    if wish.options.sensitivity is How.FISHER and not wish.source.is_dir():
        raise UsageError(
            f"--sensitivity fisher needs the checkpoint that {wish.source.name} was converted from",
            hint="give its folder as SRC",
        )
    jobs = _jobs(wish)
    for job in jobs:  # before anything that takes time
        if job.recipe == job.output:
            raise UsageError(f"{job.output} is where the recipe goes", hint=f"-o {job.output.with_suffix('.gguf')}")
        for path in (job.output, job.recipe):
            files.check_output(path, inputs=[wish.source])
    with _output.progress_bar(quiet=wish.silent) as progress, _as_gguf(wish, progress) as (model, folder):
        dealt = _texts(wish, model, progress)
        options = _with_matrix(wish, model, jobs, dealt, progress)
        found = optimize(
            model,
            jobs,
            dealt,
            replace(options, folder=folder, original=wish.source if wish.source.is_dir() else None),
            progress=progress,
            note=lambda text: _tell(wish, text),
            warn=_output.warn,
            on_estimate=lambda estimate: _on_estimate(wish, estimate),
        )
    if found is not None:
        _optimize_view.show(wish.source, found, frontier=wish.frontier, as_json=wish.as_json, quiet=wish.quiet)


def _on_estimate(wish: Wish, found: "Estimate") -> bool:
    if wish.dry_run and wish.as_json:
        _output.print_json({"dry_run": True, "estimate": _optimize_view.estimate_document(found)})
    elif wish.dry_run or not wish.silent:
        for line in _optimize_view.estimate_lines(found):
            _output.note(line)
    return not wish.dry_run


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
    return [Job(target, where / f"{stem}{target.said}-optimized.gguf") for target in wish.targets]


@contextlib.contextmanager
def _as_gguf(wish: Wish, progress: "Progress") -> Iterator[tuple[Path, Path | None]]:
    """Yield a GGUF file and the folder of the state; a checkpoint is converted into that folder first."""
    if not wish.source.is_dir():
        yield wish.source, wish.options.folder
        return
    from ggufkit.conversion import Keep, OutputType, convert
    from ggufkit.llamacpp.find import cache_folder

    name = hashlib.sha256(str(wish.source.resolve()).encode()).hexdigest()[:16]
    folder = wish.options.folder or cache_folder() / "allocations" / name
    folder.mkdir(parents=True, exist_ok=True)
    kind = OutputType(wish.between)
    model = folder / f"{wish.source.resolve().name}-{kind.name}.gguf"
    newest = max((path.stat().st_mtime_ns for path in wish.source.iterdir()), default=0)
    if not model.exists() or model.stat().st_mtime_ns < newest:
        result = convert(
            wish.source, model, outtype=kind, keep=Keep.NONE, threads=wish.options.quantize.threads, progress=progress
        )
        for warning in result.warnings:
            _output.warn(warning)
    yield model, folder
    model.unlink(missing_ok=True)


def _texts(wish: Wish, model: Path, progress: "Progress") -> "Dealt":
    """Read the texts, or let the model write one, and deal them to their uses.

    Raises:
        InputError: they cannot be read, or there is too little.
    """
    from ggufkit.allocation.texts import Document, Use, deal, joined

    wants_matrix = wish.options.quantize.imatrix is None
    development = [Use.PROBING, Use.CHOOSING]
    own = wish.development
    uses: list[Use] = [Use.CALIBRATION] if wants_matrix or wish.options.refine else []
    uses += [] if own else development
    if not wish.texts and uses and not (own and not wants_matrix):
        _tell(
            wish,
            "no text is given: the model writes its own, which fits it less well than text of the kind that it will"
            " read (-f)",
        )
        written = _calibration_text.by_the_model(
            model,
            chunks=_OWN_CHUNKS,
            ctx_size=wish.options.chunk_tokens,
            seed=0,
            threads=wish.options.quantize.threads,
            progress=progress,
        )
        given = [Document(written.name, tuple(written.text.split("\n\n")), written.special)]
    else:
        given = _documents(wish, model, wish.texts)
    first = deal(given, uses) if given and uses else _nothing()
    return joined(first, deal(_documents(wish, model, own), development)) if own else first


def _nothing() -> "Dealt":
    from ggufkit.allocation.texts import Dealt

    return Dealt("", "", "")


def _documents(wish: Wish, model: Path, paths: Sequence[Path]) -> list["Document"]:
    from ggufkit.allocation.texts import Document
    from ggufkit.quantization.calibration import read_passages

    if not paths:
        return []
    with _calibration_text.renderer(model) as (render, refused):
        found = [(path, read_passages([path], render)) for path in paths]
    if refused and not wish.silent:
        _output.warn(f"the model's chat template refused {len(refused)} chats; the first: {refused[0]}")
    return [Document(path.name, passages.texts, passages.chats > 0) for path, passages in found]


def _with_matrix(
    wish: Wish, model: Path, jobs: Sequence["Job"], dealt: "Dealt", progress: "Progress"
) -> "OptimizeOptions":
    """Make the importance matrix of the calibration text, unless one is given or an earlier run has made it."""
    from ggufkit.allocation.texts import Use
    from ggufkit.gguf_file.parts import read_parts
    from ggufkit.quantization.importance import load_importance
    from ggufkit.quantization.make_imatrix import Calibration, ImatrixOptions, make_imatrix
    from ggufkit.quantization.names import output_path
    from ggufkit.quantization.recipe import hash_file
    from ggufkit.quantization.types import quantization_type

    options = wish.options
    if options.quantize.imatrix is not None:
        return options
    plain = output_path(wish.source, quantization_type("F16"))
    named = Path(wish.output) / plain.name if wish.output and not jobs else plain
    beside = jobs[0].output if jobs else named
    matrix = beside.with_name(f"{plain.stem.removesuffix('F16')}optimized-imatrix.gguf")
    # The matrix says of which text it is: what else decides about it is in the name of that.
    weights = hash_file(part.path for part in read_parts(model))
    name = f"calibration-{dealt.sha256(Use.CALIBRATION)[:12]}-{weights[:12]}-{options.chunk_tokens}.txt"
    if not (matrix.exists() and name in load_importance(matrix).datasets):
        result = make_imatrix(
            matrix,
            model=model,
            calibration=Calibration(dealt.calibration, name, dealt.special),
            options=ImatrixOptions(
                threads=options.quantize.threads, chunks=_CALIBRATION_CHUNKS, ctx_size=options.chunk_tokens
            ),
            progress=progress,
        )
        _tell(wish, f"made {matrix} from {result.chunks} chunks")
    return replace(options, quantize=replace(options.quantize, imatrix=matrix))


def _tell(wish: Wish, text: str) -> None:
    if not wish.silent:
        _output.note(text)
