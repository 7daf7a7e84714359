"""A model with scaled channels in place of the model itself, once it is shown to say the same."""

import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.allocation.equalization.copies import write_equalized, write_equalized_matrix
from ggufkit.allocation.equalization.factors import Equalization, factors_of
from ggufkit.allocation.ledger import Ledger, Measured, key_of
from ggufkit.allocation.measuring import Setting
from ggufkit.allocation.model import Model, open_model
from ggufkit.allocation.options import OptimizeOptions
from ggufkit.allocation.targets import Target
from ggufkit.counting import counted
from ggufkit.evaluation.likelihood import passes
from ggufkit.evaluation.likelihood.passes import Running
from ggufkit.evaluation.likelihood.statistics import divergence
from ggufkit.llamacpp import cpu
from ggufkit.progress import Progress, silent
from ggufkit.quantization.direct import library
from ggufkit.quantization.importance import load_importance

FOLDER = "equalized"
_MATRIX = "imatrix-equalized.gguf"
_LONGEST_PATH = 127  # bytes of a matrix's path: what llama-quantize can record
_CHUNKS = 2
# Nats. Scaling by powers of two rounds nothing, so that a model says the same that does nothing else with its channels.
# By other factors each number is rounded in another way, which some models (whose routers waver) make much of.
_SAME, _NEAR = 1e-5, 1e-3
KEY = ("ggufkit.recipe.equalized", "bool:true")  # adapters that were trained for the checkpoint do not fit

_REFUSED = (
    "weights are not equalized: this architecture does more with its channels than is known, so that the model would"
    " say something else"
)
_IN_PART = "{} are left as they are: this architecture does more with them than is known"
# What architectures know most ways to compute with comes first: what is gated may be clamped, or shifted.
_KINDS = (
    ("what gates multiply", ("ffn_up", "ffn_up_exps", "ffn_up_shexp")),
    ("values of attention", ("attn_v",)),
)

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Equalized:
    """The equalized model, what it is quantized with, and what was scaled."""

    model: Model
    options: OptimizeOptions
    found: Equalization
    probing: Setting


def channels_to_scale(model: Model, options: OptimizeOptions, progress: Progress = silent) -> Equalization | None:
    """Find which channels of a model to scale, None where there are none, or it is not wanted.

    Weights on a lattice are left there. Without an importance matrix (of today's format) it is not known what counts.

    Raises:
        InputError: the matrix cannot be read.
        GgufFileError: the model has become shorter.
    """
    matrix = options.quantize.imatrix
    if not options.equalize or model.on_lattice or matrix is None or not _is_gguf(matrix):
        return None
    chosen = load_importance(matrix).only(options.quantize.include_weights, options.quantize.exclude_weights)
    threads = options.running.threads or cpu.usable_cores()
    found = factors_of(model.headers, chosen.values, library(), threads=threads, progress=progress)
    return found if found.count else None


def not_refused(found: Equalization | None, ledger: Ledger, identity: str) -> Equalization | None:
    """Return what an earlier run has not found to change what the model of this `identity` says."""
    for _, each in _ever_less(found):
        if not _was_refused(ledger, identity_with(each, identity)):
            return each
    return None


def identity_with(found: Equalization | None, identity: str) -> str:
    """Name a model together with what was scaled in it."""
    return f"{identity} equalized {found.identity}" if found is not None else identity


def is_too_long(folder: Path) -> bool:
    """Whether the path of a matrix in the folder of the state is longer than llama-quantize can record."""
    return len(os.fsencode((folder / _MATRIX).absolute())) > _LONGEST_PATH


def equalized(
    model: Model,
    options: OptimizeOptions,
    probing: Setting,
    ledger: Ledger,
    folder: Path,
    targets: Sequence[Target],
    budgets: Sequence[int],
    overrides: Sequence[tuple[str, str]],
    progress: Progress,
    note: Tell,
    warn: Tell,
) -> Equalized | None:
    """Write the equalized model into `folder`, where there is anything to scale, and show that it says the same.

    `probing` is the setting of the model itself; `overrides` are the keys that a file of ours will have. Where one of
    the `budgets` (bytes of whole files) has no room for another key, nothing is scaled.

    Raises:
        OutputError: there is no room for the copy.
        LlamaCppError: llama.cpp failed.
        As `channels_to_scale`.
    """
    found = channels_to_scale(model, options, progress)
    matrix = options.quantize.imatrix
    if found is None or matrix is None:
        return None
    if is_too_long(folder):
        warn(f"weights are not equalized: {folder / _MATRIX} is longer than llama-quantize can record (--state FOLDER)")
        return None
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    copies = [place / header.path.name for header in model.headers]
    left, reason = list[str](), _REFUSED
    for called, some in _ever_less(found):
        left += [called] if called else []
        if not _written(some, model, probing, copies, ledger, progress):
            continue
        scaled = folder / _MATRIX
        write_equalized_matrix(matrix, place / _MATRIX, some, library())
        (place / _MATRIX).replace(scaled)
        chosen = replace(options, quantize=replace(options.quantize, imatrix=scaled))
        opened = open_model(copies[0], chosen.quantize, options.pool, targets, (*overrides, KEY))
        if opened.smallest_bytes > min(budgets, default=opened.smallest_bytes):
            scaled.unlink()
            reason = "weights are not equalized: a file of them says so, for which this size has no room"
            break
        if left:
            warn(_IN_PART.format(" and ".join(left)))
        note(
            f"{counted(some.count, 'channel')} scaled, which leaves what the model computes as it is, and less to be"
            " lost (--no-equalize)"
        )
        return Equalized(
            replace(opened, equalized=some.identity),
            chosen,
            some,
            replace(
                probing,
                sources=tuple(copies),
                importance=scaled,
                identity=identity_with(some, probing.identity),
            ),
        )
    shutil.rmtree(place)
    warn(reason)
    return None


def _ever_less(found: Equalization | None) -> Iterator[tuple[str, Equalization]]:
    """List what to scale: all, and then without what an architecture may do more with, and how that is called."""
    if found is None:
        return
    yield "", found
    for called, kinds in _KINDS:
        less = found.without(kinds)
        if 0 < less.count < found.count:
            yield called, less
        found = less


def _was_refused(ledger: Ledger, identity: str) -> bool:
    known = ((ledger.get(_structure(identity)), _SAME), (ledger.get(_numbers(identity)), _NEAR))
    return any(measured is not None and measured.kld > most for measured, most in known)


def _written(
    some: Equalization, model: Model, probing: Setting, copies: Sequence[Path], ledger: Ledger, progress: Progress
) -> bool:
    """Write the copies of a model with these channels scaled. Return whether they say the same, exactly at first."""
    identity = identity_with(some, probing.identity)
    if _was_refused(ledger, identity):
        return False
    for key, factors, most in ((_structure(identity), some.exact, _SAME), (_numbers(identity), some, _NEAR)):
        if factors is some or ledger.get(key) is None:
            write_equalized(model.headers, copies, factors, library(), progress)
        if not _difference(probing, copies[0], key, ledger, copies[0].parent, progress) <= most:
            return False
    return True


def _difference(probing: Setting, copy: Path, key: str, ledger: Ledger, folder: Path, progress: Progress) -> float:
    """Let both models read a little; return the KL divergence between what they say, in nats."""
    known = ledger.get(key)
    if known is not None:
        return known.kld
    # As the model is: in a cache of few bits, scaled values would share blocks in another way.
    plain = Running()
    running = replace(probing.running_of_one, cache_type_k=plain.cache_type_k, cache_type_v=plain.cache_type_v)
    some = replace(probing.chunks, tokens=probing.chunks.tokens[:_CHUNKS])
    place = folder / "compared"
    place.mkdir(exist_ok=True)
    try:
        passes.read_base(probing.sources[0], some, place, running, progress)
        scores = passes.read_against(copy, "equalized", some, place, running, progress).scores
    finally:
        shutil.rmtree(place, ignore_errors=True)
    found = abs(float(divergence(scores).mean_kld.value))
    if math.isfinite(found):
        ledger.add(key, Measured(found, (found,), 0.0))
    return found


def _structure(identity: str) -> str:
    return key_of(f"same {identity}", {})


def _numbers(identity: str) -> str:
    return key_of(f"near {identity}", {})


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"
