"""A model with its outlying channels scaled back, in place of the model itself, once it is shown to say the same."""

import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.allocation.equalization.outliers import Equalization, outliers
from ggufkit.allocation.equalization.scaling import write_equalized, write_equalized_matrix
from ggufkit.allocation.ledger import Ledger, Measured, key_of
from ggufkit.allocation.measuring import Setting
from ggufkit.allocation.model import Model, open_model
from ggufkit.allocation.options import OptimizeOptions
from ggufkit.allocation.targets import Target
from ggufkit.counting import counted
from ggufkit.evaluation.likelihood import passes
from ggufkit.evaluation.likelihood.passes import Running
from ggufkit.evaluation.likelihood.statistics import divergence
from ggufkit.progress import Progress
from ggufkit.quantization.direct import library
from ggufkit.quantization.importance import load_importance

FOLDER = "equalized"
_MATRIX = "imatrix-equalized.gguf"
_LONGEST_PATH = 127  # bytes of a matrix's path: what llama-quantize can record
_CHUNKS = 2
# Nats: exact powers of two change nothing; what numbers of F16 lose below its smallest normal one is far less than
# this, and a model that computes anything else with a channel is changed by far more.
_SAME = 1e-5
KEY = ("ggufkit.recipe.equalized", "bool:true")  # adapters that were trained for the checkpoint do not fit

_REFUSED = (
    "weights are not equalized: this architecture does more with its channels than is known, so that the model would"
    " say something else"
)

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Equalized:
    """The equalized model, what it is quantized with, and what was scaled."""

    model: Model
    options: OptimizeOptions
    found: Equalization
    probing: Setting


def channels_to_scale(model: Model, options: OptimizeOptions) -> Equalization | None:
    """Find the channels of a model whose scales cost the most, None where there are none, or it is not wanted.

    Weights on a lattice are left there. Without an importance matrix (of today's format) it is not known what counts.

    Raises:
        InputError: the matrix cannot be read.
        GgufFileError: the model has become shorter.
    """
    matrix = options.quantize.imatrix
    if not options.equalize or model.on_lattice or matrix is None or not _is_gguf(matrix):
        return None
    chosen = load_importance(matrix).only(options.quantize.include_weights, options.quantize.exclude_weights)
    found = outliers(model.headers, chosen.values, library())
    return found if found.count else None


def identity_with(found: Equalization | None, identity: str) -> str:
    """Name a model together with what was scaled in it."""
    return f"{identity} equalized {found.identity}" if found is not None else identity


def was_refused(ledger: Ledger, identity: str) -> bool:
    """Whether an earlier run has found that the equalized model does not say the same. `identity` is with it."""
    known = ledger.get(_key(identity))
    return known is not None and known.kld > _SAME


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
    found = channels_to_scale(model, options)
    matrix = options.quantize.imatrix
    if found is None or matrix is None:
        return None
    scaled = folder / _MATRIX
    if is_too_long(folder):
        warn(f"weights are not equalized: {scaled} is longer than llama-quantize can record (--state FOLDER)")
        return None
    identity = identity_with(found, probing.identity)
    if was_refused(ledger, identity):
        warn(_REFUSED)
        return None
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    copies = [place / header.path.name for header in model.headers]
    write_equalized(model.headers, copies, found, library(), progress)
    write_equalized_matrix(matrix, place / _MATRIX, found, library())
    (place / _MATRIX).replace(scaled)
    chosen = replace(options, quantize=replace(options.quantize, imatrix=scaled))
    refusal = ""
    if not _difference(probing, copies[0], identity, ledger, place, progress) <= _SAME:
        refusal = _REFUSED
    else:
        opened = open_model(copies[0], chosen.quantize, options.pool, targets, (*overrides, KEY))
        if opened.smallest_bytes > min(budgets, default=opened.smallest_bytes):
            refusal = "weights are not equalized: a file of them says so, for which this size has no room"
    if refusal:
        shutil.rmtree(place)
        scaled.unlink()
        warn(refusal)
        return None
    note(
        f"{counted(found.count, 'channel')} scaled by powers of two, which leaves what the model computes as it is, and"
        " less to be lost (--no-equalize)"
    )
    return Equalized(
        replace(opened, equalized=found.identity),
        chosen,
        found,
        replace(probing, sources=tuple(copies), importance=scaled, identity=identity),
    )


def _difference(probing: Setting, copy: Path, identity: str, ledger: Ledger, folder: Path, progress: Progress) -> float:
    """Let both models read a little; return the KL divergence between what they say, in nats."""
    key = _key(identity)
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


def _key(identity: str) -> str:
    return key_of(f"same {identity}", {})


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"
