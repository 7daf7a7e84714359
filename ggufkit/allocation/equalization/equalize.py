"""A model with scaled channels in place of the model itself, once it is shown to say the same."""

import math
import os
import shutil
from collections.abc import Callable, Sequence
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
_COMPARED = "compared"
_MATRIX = "imatrix-equalized.gguf"
_LONGEST_PATH = 127  # bytes of a matrix's path: what llama-quantize can record
_CHUNKS = 2
# Nats. Scaling by powers of two rounds nothing, so that a model says the same that does nothing else with its channels.
# By other factors each number is rounded in another way, which some models (whose routers waver) make something of; the
# files themselves are compared with the model later, so that here only what went wrong altogether is to be found.
_SAME, _NEAR = 1e-5, 0.1
_NOT_A_NUMBER = 1e9
KEY = ("ggufkit.recipe.equalized", "bool:true")  # adapters that were trained for the checkpoint do not fit

_NOT = "weights are not equalized: "
_REFUSED = (
    f"{_NOT}this architecture does more with its channels than is known, so that the model would say something else"
)
_IN_PART = "{} are not scaled: this architecture does more with these channels than is known"
_ROUNDED = f"{_NOT}how numbers are rounded changes too much of what this model says"
_CALLED = {
    "attn_v": "values of attention",
    "ffn_up": "what gates multiply",
    "ffn_up_exps": "what gates of experts multiply",
    "ffn_up_shexp": "what gates of shared experts multiply",
}

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
    return found if found.factors else None


def not_refused(found: Equalization | None, ledger: Ledger, identity: str) -> Equalization | None:
    """Return what an earlier run has not found to change what the model of this `identity` says, None for nothing."""

    def is_same(some: Equalization) -> bool:
        known = ledger.get(_structure(some, identity))
        return known is None or known.kld <= _SAME

    left = _harmless(found, is_same) if found is not None else None
    known = ledger.get(_numbers(left, identity)) if left is not None else None
    return left if known is None or known.kld <= _NEAR else None


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
        warn(f"{_NOT}{folder / _MATRIX} is longer than llama-quantize can record (--state FOLDER)")
        return None
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    copy = _Copy(model, probing, place, ledger, progress)
    left = _harmless(found, copy.says_the_same)
    refusal = _REFUSED if left is None else "" if copy.says_nearly_the_same(left) else _ROUNDED
    copy.remove_what_was_compared()
    if left is not None and not refusal:
        scaled = folder / _MATRIX
        write_equalized_matrix(matrix, place / _MATRIX, left, library())
        (place / _MATRIX).replace(scaled)
        chosen = replace(options, quantize=replace(options.quantize, imatrix=scaled))
        opened = open_model(copy.paths[0], chosen.quantize, options.pool, targets, (*overrides, KEY))
        if opened.smallest_bytes <= min(budgets, default=opened.smallest_bytes):
            if lost := sorted(_CALLED.get(kind, kind) for kind in found.kinds - left.kinds):
                warn(_IN_PART.format(" and ".join(lost)))
            note(
                f"{counted(left.count, 'channel')} scaled, which leaves what the model computes as it is, and less to"
                " be lost (--no-equalize)"
            )
            return Equalized(
                replace(opened, equalized=left.identity),
                chosen,
                left,
                replace(
                    probing,
                    sources=tuple(copy.paths),
                    importance=scaled,
                    identity=identity_with(left, probing.identity),
                ),
            )
        scaled.unlink()
        refusal = f"{_NOT}a file of them says so, for which this size has no room"
    shutil.rmtree(place)
    warn(refusal)
    return None


def _harmless(found: Equalization, is_same: Callable[[Equalization], bool]) -> Equalization | None:
    """Leave out the kinds of channels that change what the model says; None where that is all, or unknown which."""
    if is_same(found):
        return found
    left = found.only({kind for kind in found.kinds if is_same(found.only({kind}))})
    return left if left.factors and left.kinds != found.kinds else None


@dataclass(frozen=True, slots=True)
class _Copy:
    """A copy of a model in a folder of its own, whose channels are scaled; what it says is remembered in the ledger."""

    model: Model
    probing: Setting
    folder: Path
    ledger: Ledger
    progress: Progress

    @property
    def paths(self) -> list[Path]:
        """The files of the copy."""
        return [self.folder / header.path.name for header in self.model.headers]

    def says_the_same(self, some: Equalization) -> bool:
        """Scale the copy by powers of two instead, and return whether it says what the model says."""
        key = _structure(some, self.probing.identity)
        if self.ledger.get(key) is None:
            self._write(some.exact)
        return self._difference(key) <= _SAME

    def says_nearly_the_same(self, some: Equalization) -> bool:
        """Scale the copy, and return whether it says what the model says but for how its numbers are rounded."""
        known = self.ledger.get(key := _numbers(some, self.probing.identity))
        if known is not None and known.kld > _NEAR:
            return False
        self._write(some)
        return self._difference(key) <= _NEAR

    def remove_what_was_compared(self) -> None:
        """Remove what the model said, which takes room that is wanted later."""
        shutil.rmtree(self.folder / _COMPARED, ignore_errors=True)

    def _write(self, some: Equalization) -> None:
        write_equalized(self.model.headers, self.paths, some, library(), self.progress)

    def _difference(self, key: str) -> float:
        """Let both models read a little; return the KL divergence between what they say, in nats."""
        known = self.ledger.get(key)
        if known is not None:
            return known.kld
        # As the model is: in a cache of few bits, scaled values would share blocks in another way.
        probing, plain = self.probing, Running()
        running = replace(probing.running_of_one, cache_type_k=plain.cache_type_k, cache_type_v=plain.cache_type_v)
        some = replace(probing.chunks, tokens=probing.chunks.tokens[:_CHUNKS])
        place = self.folder / _COMPARED
        place.mkdir(exist_ok=True)
        passes.read_base(probing.sources[0], some, place, running, self.progress)  # once: then it is there
        scores = passes.read_against(self.paths[0], key, some, place, running, self.progress).scores
        found = abs(float(divergence(scores).mean_kld.value))
        found = found if math.isfinite(found) else _NOT_A_NUMBER
        self.ledger.add(key, Measured(found, (found,), 0.0))
        return found


def _structure(some: Equalization, identity: str) -> str:
    return key_of(f"same {identity_with(some.exact, identity)}", {})


def _numbers(some: Equalization, identity: str) -> str:
    return key_of(f"near {identity_with(some, identity)}", {})


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"
