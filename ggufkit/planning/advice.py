"""Which type to take: the rules of thumb of the field, applied to what is known about this model and this machine."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.checkpoints.hub import RemoteFile
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.planning.memory import Fit
from ggufkit.planning.row import AS_IT_IS, Row
from ggufkit.planning.subject import Origin, Subject

# From the best to the smallest, what is worth having on a CPU: of two that cost the same, only the better one.
_LADDER = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_K_S", "IQ4_XS", "Q3_K_M", "IQ3_XXS", "Q2_K", "IQ2_M", "IQ2_XXS")
_SMALL, _TINY = 1.5e9, 0.4e9  # weights; with fewer, each bit that is taken away hurts more
_COMFORTABLE = 12.0  # tokens per second, faster than most people read

_CLEARLY_WORSE = 0.15  # nats
_FITS = {
    Fit.YES: "it fits in memory",
    Fit.TIGHT: "it fits in memory, though tightly",
    Fit.NO: "it does not fit in memory: take a smaller context, or a smaller model",
    None: "whether it fits is not known",
}
_QAT = re.compile(r"(?<![a-z])qat(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Choice:
    """A type for a purpose, and the reason in words."""

    purpose: str
    row: Row
    reason: str


@dataclass(frozen=True, slots=True)
class Advice:
    """The one type to take, the command that makes it, and what others would take it for other ends."""

    choice: Choice
    command: str
    others: tuple[Choice, ...]


def advise(subject: Subject, rows: Sequence[Row], imatrix: Path | None) -> Advice | None:
    """Choose a type; None where none can be made."""
    by_name = {row.name: row for row in rows}
    if itself := by_name.get(AS_IT_IS):
        as_it_is = Choice("as it is", itself, _FITS[itself.fits_somewhere])
        if not subject.origin.is_remote:
            return Advice(as_it_is, f"ggufkit chat {_quoted(subject.name)}", ())
        files = next(model.files for model in subject.ready if Path(model.path).name == subject.file.name)
        return Advice(as_it_is, f"{_download(subject)} {_names(files)} --local-dir .", ())
    choice = _trained_for(subject, by_name) or _by_memory(subject, by_name)
    if choice is None:
        return None
    others = [
        _other("near-lossless", by_name.get("Q8_0"), "answers as F16 does, at half the size"),
        _other("balanced", by_name.get("Q4_K_M"), "the usual choice: little loss at 4 to 5 bits per weight"),
        _other("edge", by_name.get("Q4_0"), "the fastest kernels on many small CPUs, for some more loss"),
        _other("smallest usable", by_name.get("Q3_K_M"), "the loss shows; below it, a smaller model is often better"),
    ]
    return Advice(
        choice,
        command(subject, choice.row, imatrix),
        tuple(other for other in others if other and other.row is not choice.row),
    )


def command(subject: Subject, row: Row, imatrix: Path | None) -> str:
    """Spell the command that makes a type of this model."""
    if subject.origin.is_remote:
        pattern = re.compile(rf"[-._/]{row.name}[-._/]", re.IGNORECASE)
        if ready := next((model for model in subject.ready if pattern.search(model.path)), None):
            return f"{_download(subject)} {_names(ready.files)} --local-dir ."
        if subject.origin is Origin.REMOTE_CHECKPOINT:
            source = Path(subject.name.partition("@")[0]).name
            fetch = f"{_download(subject)} --local-dir {source}"
        else:
            unquantized = next(model for model in subject.ready if Path(model.path).name == subject.file.name)
            source = unquantized.path
            fetch = f"{_download(subject)} {_names(unquantized.files)} --local-dir ."
        return f"{fetch} && ggufkit quantize {row.name} {_quoted(source)}{_imatrix(row, imatrix)}"
    return f"ggufkit quantize {row.name} {_quoted(subject.name)}{_imatrix(row, imatrix)}"


def _download(subject: Subject) -> str:
    repository, _, revision = subject.name.partition("@")
    return f"hf download {repository}" + (f" --revision {revision}" if revision else "")


def _names(files: Sequence[RemoteFile]) -> str:
    return " ".join(shlex.quote(file.path) for file in files)


def _quoted(name: str) -> str:
    return shlex.quote(f"./{name}" if name.startswith("-") else name)


def _imatrix(row: Row, given: Path | None) -> str:
    if given:
        return f" --imatrix {shlex.quote(str(given))}"
    return " --imatrix auto" if row.needs_imatrix else ""


def _other(purpose: str, row: Row | None, reason: str) -> Choice | None:
    return Choice(purpose, row, reason) if row and row.fits_somewhere is not Fit.NO else None


def _trained_for(subject: Subject, rows: dict[str, Row]) -> Choice | None:
    """Prefer the type that a model was trained to be in, where it loses nothing."""
    metadata = subject.headers[0].metadata
    names = f"{Path(subject.name).name} {metadata.get('general.name', '')} {metadata.get('general.finetune', '')}"
    types = {tensor.type for header in subject.headers for tensor in header.tensors}
    for name, applies, reason in (
        ("MXFP4_MOE", TensorType.MXFP4 in types, "its experts are MXFP4 already: everything else loses or grows"),
        ("TQ2_0", subject.architecture == "bitnet", "it was trained with ternary weights, which this type holds"),
        ("Q4_0", bool(_QAT.search(names)), "it was trained to lose little at Q4_0 (QAT)"),
    ):
        if applies and (row := rows.get(name)) and row.fits_somewhere is not Fit.NO:
            return Choice("recommended", row, reason)
    return None


def _by_memory(subject: Subject, rows: dict[str, Row]) -> Choice | None:
    ladder = [row for name in _LADDER if (row := rows.get(name))]
    if not ladder:
        return Choice("recommended", next(iter(rows.values())), "the only one that can be made") if rows else None
    elements = sum(header.elements for header in subject.headers)
    if elements < _TINY:
        start, reason = "Q8_0", "so small a model loses much with every bit, and saves little"
    elif elements < _SMALL:
        start, reason = "Q5_K_M", "a small model loses more at few bits than a large one, and is fast anyway"
    elif _has_room(rows.get("Q5_K_M")):
        start, reason = "Q5_K_M", "there is room for more than Q4_K_M, and it is fast enough"
    else:
        start, reason = "Q4_K_M", "on a CPU the usual balance of size, speed and loss"
    allowed = _LADDER[_LADDER.index(start) :]
    candidates = [row for row in ladder if row.name in allowed] or ladder[-1:]
    first = candidates[0]
    if first.fits_somewhere in {None, Fit.YES}:
        return Choice("recommended", first, reason)
    for wanted in (Fit.YES, Fit.TIGHT):
        for row in candidates:
            loses_much = row.quality is not None and row.quality.mean_kld > _CLEARLY_WORSE
            if row.fits_somewhere is wanted and not loses_much:
                tight = ", though tightly" if wanted is Fit.TIGHT else ""
                return Choice("recommended", row, f"the best that fits in memory{tight}")
    for row in candidates:
        if row.fits_somewhere is not Fit.NO:
            return Choice("recommended", row, "the best that fits in memory; a smaller model would answer better")
    return Choice("smallest", candidates[-1], "none fits in memory: take a smaller context, or a smaller model")


def _has_room(row: Row | None) -> bool:
    return (
        row is not None
        and row.fits_somewhere is Fit.YES
        and row.memory is not None
        and (row.tokens_per_second or 0) >= _COMFORTABLE
    )
