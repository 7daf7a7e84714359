"""The texts of `ggufkit optimize`, given or written by the model, and the importance matrix of one of them."""

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ggufkit.cli import _calibration_text, _output
from ggufkit.counting import counted

if TYPE_CHECKING:
    from ggufkit.allocation.optimize import Job
    from ggufkit.allocation.options import OptimizeOptions
    from ggufkit.allocation.texts import Dealt, Document, Use
    from ggufkit.cli._optimize_work import Wish
    from ggufkit.progress import Progress

OWN_CHUNKS = 36  # of text that the model writes itself, for all three uses together
CALIBRATION_CHUNKS = 200
_OWN_TEXT = re.compile(r"calibration-[0-9a-f]{12}-[0-9a-f]{12}-\d+\.txt")  # as `_matrix_text` names it


def given(wish: "Wish", model: Path) -> "Dealt | None":
    """Read the texts that were given and deal them to their uses; None where the model has to write its own.

    Raises:
        InputError: they cannot be read, or there is too little.
    """
    from ggufkit.allocation.texts import deal

    uses = _uses(wish)
    if uses and not wish.texts and not _needs_only_development(wish):
        return None
    first = deal(_documents(wish, model, wish.texts), uses) if wish.texts and uses else _nothing()
    return _with_development(wish, model, first)


def written(wish: "Wish", model: Path, options: "OptimizeOptions", progress: "Progress") -> "Dealt":
    """Let the model write, and deal that; what an earlier run has written is taken again.

    Raises:
        InputError: it writes nothing, or too little.
    """
    from ggufkit.allocation.texts import Document, deal
    from ggufkit.files import write_atomically

    if not wish.silent:
        _output.note(
            "no text is given: the model writes its own, which fits it less well than text of the kind that it will"
            " read (-f)"
        )
    keeper = kept(options, model)
    try:
        found = json.loads(keeper.read_text(encoding="utf-8"))
        document = Document(str(found["name"]), tuple(map(str, found["passages"])), bool(found["special"]))
    except (OSError, ValueError, KeyError, TypeError):
        text = _calibration_text.by_the_model(
            model,
            chunks=OWN_CHUNKS,
            ctx_size=options.chunk_tokens,
            seed=0,
            threads=options.quantize.threads,
            progress=progress,
        )
        document = Document(text.name, tuple(text.text.split("\n\n")), text.special)
        keeper.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(keeper, json.dumps(asdict(document), ensure_ascii=False).encode())
    return _with_development(wish, model, deal([document], _uses(wish)))


def kept(options: "OptimizeOptions", model: Path) -> Path:
    """Where the text that a model has written is kept, for runs that go on."""
    from ggufkit.allocation.workplace import state_folder
    from ggufkit.quantization.plan import read_model
    from ggufkit.quantization.recipe import hash_file

    headers = read_model(model)
    weights = hash_file(header.path for header in headers)[:16]
    return state_folder(headers, options) / f"own-text-{weights}-{options.chunk_tokens}.json"


def calibration_tokens(dealt: "Dealt | None", model: Path, options: "OptimizeOptions") -> int:
    """Count the tokens that the importance matrix will be made of, if it has to be made; `dealt`: None if unwritten."""
    from ggufkit.allocation.chunks import length_for, tokens_of
    from ggufkit.allocation.texts import Use
    from ggufkit.gguf_file.parts import read_parts

    if options.quantize.imatrix is not None:
        return 0
    most = CALIBRATION_CHUNKS * options.chunk_tokens
    if dealt is None:
        return min(most, OWN_CHUNKS * options.chunk_tokens // 2)
    tokens = len(tokens_of(dealt, Use.CALIBRATION, model, options.running))
    length_for(tokens, Use.CALIBRATION, read_parts(model)[0], options.chunk_tokens)  # refuses what is too short
    return min(most, tokens)


def with_known_matrix(
    wish: "Wish", model: Path, jobs: Sequence["Job"], dealt: "Dealt | None", options: "OptimizeOptions"
) -> "OptimizeOptions":
    """Take the importance matrix that an earlier run has made of the same text, if it is there.

    Raises:
        UsageError: a file is in its place that no such run has made.
    """
    from ggufkit.errors import InputError, UsageError
    from ggufkit.quantization.importance import load_importance

    if options.quantize.imatrix is not None or dealt is None:
        return options
    matrix = _matrix(wish, model, jobs, options)
    if not matrix.exists():
        return options
    try:
        texts = load_importance(matrix).datasets
    except InputError:
        texts = ()
    if _matrix_text(dealt, model, options) in texts:
        return replace(options, quantize=replace(options.quantize, imatrix=matrix))
    if not texts or not all(_OWN_TEXT.fullmatch(text) for text in texts):
        raise UsageError(
            f"{matrix} exists, and was not made by this command", hint="move it away, or use it: --imatrix"
        )
    return options


@contextlib.contextmanager
def only_user(wish: "Wish", model: Path, jobs: Sequence["Job"], options: "OptimizeOptions") -> Iterator[None]:
    """See to it that no other run replaces the importance matrix of this one while it is used.

    Raises:
        OutputError: another run uses it.
    """
    from ggufkit.files import locked

    matrix = _matrix(wish, model, jobs, options)
    matrix.parent.mkdir(parents=True, exist_ok=True)
    elsewhere = "an output in another folder (-o)" if jobs else "a state of its own (--state)"
    hint = f"wait for it, or give this run {elsewhere}, or a matrix (--imatrix)"
    with locked(matrix.with_name(f"{matrix.name}-used"), said=f"{matrix} is in use", hint=hint):
        yield


def with_matrix(
    wish: "Wish",
    model: Path,
    jobs: Sequence["Job"],
    dealt: "Dealt",
    options: "OptimizeOptions",
    progress: "Progress",
) -> "OptimizeOptions":
    """Make the importance matrix of the calibration text, unless one is given or an earlier run has made it."""
    from ggufkit.allocation.chunks import chunks_wanted, length_for, tokens_of
    from ggufkit.allocation.texts import Use
    from ggufkit.gguf_file.parts import read_parts
    from ggufkit.quantization.make_imatrix import Calibration, ImatrixOptions, make_imatrix

    options = with_known_matrix(wish, model, jobs, dealt, options)
    if options.quantize.imatrix is not None:
        return options
    matrix, wanted = _matrix(wish, model, jobs, options), options.chunk_tokens
    tokens = len(tokens_of(dealt, Use.CALIBRATION, model, options.running))
    length = length_for(tokens, Use.CALIBRATION, read_parts(model)[0], wanted)
    result = make_imatrix(
        matrix,
        model=model,
        calibration=Calibration(dealt.calibration, _matrix_text(dealt, model, options), dealt.special),
        options=ImatrixOptions(
            threads=options.quantize.threads,
            chunks=CALIBRATION_CHUNKS if length == wanted else chunks_wanted(CALIBRATION_CHUNKS, length),
            ctx_size=length,
        ),
        progress=progress,
    )
    if not wish.silent:
        _output.note(f"made {matrix} from {counted(result.chunks, 'chunk')}")
    return replace(options, quantize=replace(options.quantize, imatrix=matrix))


def _matrix(wish: "Wish", model: Path, jobs: Sequence["Job"], options: "OptimizeOptions") -> Path:
    """Name the matrix: beside the first file that is made; with the state, where none is or its path is too long."""
    from ggufkit.allocation.workplace import state_folder
    from ggufkit.quantization.imatrix import LONGEST_PATH
    from ggufkit.quantization.names import output_path
    from ggufkit.quantization.plan import read_model
    from ggufkit.quantization.types import quantization_type

    stem = output_path(wish.source, quantization_type("F16")).stem.removesuffix("F16")
    name = f"{stem}optimized-imatrix.gguf"
    beside = jobs[0].output.with_name(name) if jobs else None
    if beside is not None and len(str(beside).encode()) <= LONGEST_PATH:
        return beside
    return state_folder(read_model(model), options) / name


def _matrix_text(dealt: "Dealt", model: Path, options: "OptimizeOptions") -> str:
    """Name the text in the matrix, so that it says of which text and model it is, and how it was cut."""
    from ggufkit.allocation.texts import Use
    from ggufkit.gguf_file.parts import read_parts
    from ggufkit.quantization.recipe import hash_file

    weights = hash_file(part.path for part in read_parts(model))
    return f"calibration-{dealt.sha256(Use.CALIBRATION)[:12]}-{weights[:12]}-{options.chunk_tokens}.txt"


def _uses(wish: "Wish") -> list["Use"]:
    from ggufkit.allocation.texts import Use

    # Beside text for development -f is what a matrix was made of: it must not be the same.
    learns = wish.options.quantize.imatrix is None or wish.options.refine or (wish.texts and wish.development)
    uses = [Use.CALIBRATION] if learns else []
    return uses if wish.development else [*uses, Use.PROBING, Use.CHOOSING]


def _needs_only_development(wish: "Wish") -> bool:
    """Whether what was given for development and as importance matrix is enough."""
    return bool(wish.development) and wish.options.quantize.imatrix is not None


def _with_development(wish: "Wish", model: Path, first: "Dealt") -> "Dealt":
    from ggufkit.allocation.texts import Use, deal, joined

    if not wish.development:
        return first
    return joined(first, deal(_documents(wish, model, wish.development), [Use.PROBING, Use.CHOOSING]))


def _nothing() -> "Dealt":
    from ggufkit.allocation.texts import Dealt

    return Dealt("", "", "")


def _documents(wish: "Wish", model: Path, paths: Sequence[Path]) -> list["Document"]:
    from ggufkit.allocation.texts import Document
    from ggufkit.errors import InputError
    from ggufkit.quantization.calibration import TOO_SHORT, read_passages

    try:
        with _calibration_text.renderer(model) as (render, refused):
            found = [(path, read_passages([path], render)) for path in paths]
    except InputError as error:
        if error.hint != TOO_SHORT:
            raise
        raise InputError(str(error), hint="give more text, or leave out -f: then the model writes its own") from error
    if refused and not wish.silent:
        _output.warn(f"the model's chat template refused {len(refused)} chats; the first: {refused[0]}")
    return [Document(path.name, passages.texts, passages.chats > 0) for path, passages in found]
