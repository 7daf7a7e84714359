"""The estimate, before anything is done: by headers, by some tokens that the model reads, and by what is known already.

Nothing is written but in a folder for temporary files, which goes away. The importance matrix may not be there yet: one
of ones stands in for it. The model may not be there yet either, where a checkpoint has to be converted: a header with a
hole in place of the weights takes as long to read text as the real one.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy as np

from ggufkit.allocation import known_errors
from ggufkit.allocation.choices import Types
from ggufkit.allocation.chunks import chunks_wanted
from ggufkit.allocation.equalization.equalize import channels_to_scale, identity_with, is_too_long, not_refused
from ggufkit.allocation.estimate import Asked, Before, Estimate, Speeds, encoding_speed, estimate
from ggufkit.allocation.fisher import seen_by_fisher
from ggufkit.allocation.ledger import Ledger, key_of
from ggufkit.allocation.measuring import Setting
from ggufkit.allocation.mix import mixes_measured
from ggufkit.allocation.model import Model, open_model
from ggufkit.allocation.options import Effort, OptimizeOptions
from ggufkit.allocation.refinement.choosing import refined_candidates
from ggufkit.allocation.refinement.lessons import tokens_read_backwards
from ggufkit.allocation.refinement.output_moments import bytes_of_files
from ggufkit.allocation.refinement.refine import is_in_order, tokens_of_its_own, tokens_to_learn_from
from ggufkit.allocation.refinement.rounding import compiled
from ggufkit.allocation.study import questions_of
from ggufkit.allocation.targets import Target
from ggufkit.allocation.texts import Dealt, Use
from ggufkit.allocation.weights import rows_of
from ggufkit.allocation.workplace import LEDGER, identity_of, setting_of, speed_key, state_folder
from ggufkit.errors import InputError
from ggufkit.evaluation.likelihood import passes
from ggufkit.evaluation.likelihood.logits_file import estimated_bytes
from ggufkit.evaluation.likelihood.texts import Chunks
from ggufkit.files import PlannedFile, check_space
from ggufkit.gguf_file.reader import GgufHeader
from ggufkit.progress import Progress, silent
from ggufkit.quantization.direct import library as ggml_library
from ggufkit.quantization.matrix_fit import ENDS
from ggufkit.quantization.plan import read_model

CORRECTION_ROUNDS = 2
CANDIDATES = 7  # about, for each size
_TOKENS = 1024  # that the model reads to see how fast it is


def foresee(
    source: Path,
    targets: Sequence[Target],
    texts: Dealt | None,
    options: OptimizeOptions,
    before: Before,
    *,
    written_per_second: float = 0.0,
    exists: bool = True,
    progress: Progress = silent,
) -> Estimate:
    """Estimate what `optimize` will take, and what has to be made `before`.

    `texts` are None where the model is to write its own. `exists` says that `source` holds its weights, so that what
    earlier runs have measured of it counts.

    Raises:
        UsageError: a target that no file can have, or a source that is quantized already.
        InputError: the source, the matrix or the texts cannot be used.
        LlamaCppError: llama.cpp failed.
    """
    with tempfile.TemporaryDirectory(prefix="ggufkit-") as name:
        folder = Path(name)
        if (given := options.quantize.imatrix) is None:
            stand = _matrix_of_ones(folder / "ones.gguf", read_model(source))
            options = replace(options, quantize=replace(options.quantize, imatrix=stand))
        model = open_model(source, options.quantize, options.pool, targets, ())
        budgets = [model.budget(target) for target in targets]
        ledger = Ledger(state_folder(model.headers, options) / LEDGER, mends=False) if given and exists else None
        scaled = channels_to_scale(model, options, progress) if given and exists else None
        if is_too_long(state_folder(model.headers, options)):
            scaled = None
        identity = identity_of(model, options) if ledger else ""
        amounts = options.amounts(model.weights)
        probing, choosing = (
            setting_of(model, options, identity, texts, use, most) if texts else _any_tokens(model, options, most)
            for use, most in ((Use.PROBING, amounts.probing), (Use.CHOOSING, amounts.choosing))
        )
        if ledger:
            scaled = not_refused(scaled, ledger, probing.identity)
        probing = replace(probing, identity=identity_with(scaled, probing.identity))
        known = ledger.get(speed_key(probing)) if ledger else None
        if known is not None:
            speed, load = known.chunks[0], known.seconds
        else:
            speed, load = _reading_speed(model, probing, folder, progress)
        speeds = Speeds(encoding_speed(ggml_library()), speed, load, written_per_second)
        asked = expected(model, options, budgets, ledger, probing)
        found = estimate(speeds, model.choices, asked, before, probing, choosing)
        is_open = options.equalize and not model.on_lattice and not (given and exists)  # until there is a matrix
        copied = model.bytes if scaled is not None or is_open else 0
        return replace(found, disk_bytes=found.disk_bytes + copied)


def expected(
    model: Model, options: OptimizeOptions, budgets: Sequence[int], ledger: Ledger | None, probing: Setting
) -> Asked:
    """Count what `optimize` will do that the ledger does not know yet."""
    seen = seen_by_fisher(model, options)
    questions = questions_of(model, options.effort, seen)

    def is_new(types: Types) -> bool:
        return ledger is None or ledger.get(key_of(probing.identity, types)) is None

    files, rows = len(budgets), options.amounts(model.weights).rows
    backwards = 0
    if options.original and all(find_spec(needed) for needed in ("torch", "transformers")):
        backwards = tokens_read_backwards(model.weights, probing.chunks.length)
    return Asked(
        rows=rows,
        curve=[types for _, types in questions.curve if is_new(types)],
        groups=[group.types for group in questions.groups if is_new(group.types)],
        rounds=CORRECTION_ROUNDS * files if options.effort is Effort.THOROUGH else 0,
        candidates=CANDIDATES * files,
        mixes=files * mixes_measured(model.weights, CANDIDATES),
        files=files,
        largest_file=max(budgets, default=0),
        refined=files * refined_candidates(model.weights) if options.refine else 0,
        learned_tokens=tokens_to_learn_from(model.weights, len(model.choices), probing.chunks.length),
        own_tokens=tokens_of_its_own(model.weights, probing.chunks.length),
        backwards_tokens=backwards,
        backwards_bytes=bytes_of_files(model.headers) if backwards else 0,
        in_order=is_in_order(model.weights),
        is_compiled=not options.refine or compiled() is not None,
        searched_rows=known_errors.rows_of_gains(rows) if options.quantize.search_scales else 0,
        by_gradients=sum(choice.weights for choice in model.choices if choice.name in seen),
    )


def _matrix_of_ones(path: Path, headers: Sequence[GgufHeader]) -> Path:
    """Write an importance matrix that covers what llama-imatrix measures and says nothing."""
    writer = gguf.GGUFWriter(path, "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["none"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 1)
    for header in headers:
        for tensor in header.tensors:
            columns, _, experts = rows_of(tensor)
            if len(tensor.shape) > 1 and tensor.name not in ENDS:
                writer.add_tensor(f"{tensor.name}.in_sum2", np.ones((experts, columns), np.float32))
                writer.add_tensor(f"{tensor.name}.counts", np.ones((experts, 1), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _any_tokens(model: Model, options: OptimizeOptions, most: int) -> Setting:
    """Stand in for text that is not written yet: any tokens take as long to read."""
    header = model.headers[0]
    entry = header.metadata.entries.get("tokenizer.ggml.tokens")
    if entry is None:
        raise InputError(f"{header.path} holds no vocabulary, so no text can be given to it")
    chance = np.random.default_rng(0)
    count = chunks_wanted(most, options.chunk_tokens)
    tokens = chance.integers(0, entry.count, (count, options.chunk_tokens)).tolist()
    chunks = Chunks(tuple(map(tuple, tokens)), options.chunk_tokens, entry.count, ())
    return Setting(tuple(each.path for each in model.headers), chunks, None, (), (), options.running, "")


def _reading_speed(model: Model, probing: Setting, folder: Path, progress: Progress) -> tuple[float, float]:
    """Let the model read a little; return tokens per second, and the seconds until it was loaded."""
    chunks = probing.chunks
    some = replace(chunks, tokens=chunks.tokens[: max(1, _TOKENS // chunks.length)])
    check_space(
        [PlannedFile(folder / "base", estimated_bytes(chunks.vocabulary_size, chunks.length, len(some.tokens)))]
    )
    reading = passes.read_base(model.source, some, folder, probing.running_of_one, progress)
    return reading.tokens_per_second or 1.0, reading.load_seconds or 0.0
