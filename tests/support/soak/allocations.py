"""Rows about `ggufkit optimize`: random models and sizes, each of which must come out as is promised of all."""

from dataclasses import replace
from pathlib import Path
from random import Random

import random_models

from ggufkit.allocation import targets
from ggufkit.allocation.optimize import Job, optimize
from ggufkit.allocation.options import Effort, OptimizeOptions
from ggufkit.allocation.results import Optimized
from ggufkit.allocation.texts import Dealt, Document, Use, deal
from ggufkit.errors import UsageError
from ggufkit.evaluation.likelihood import passes
from ggufkit.evaluation.likelihood.statistics import divergence
from ggufkit.evaluation.likelihood.texts import Chunks, cut_into_chunks
from ggufkit.gguf_file.reader import read_header
from ggufkit.quantization.make_imatrix import Calibration, ImatrixOptions, make_imatrix
from ggufkit.quantization.options import QuantizeOptions
from ggufkit.quantization.quantize import quantize
from ggufkit.quantization.types import quantization_type
from soak import Row, Trial

_PRESETS = ("Q3_K_S", "Q3_K_M", "IQ4_XS", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K")
_LENGTH = 64
_LEAST_SHARE = 0.995  # of the budget
_FORETOLD = (0.67, 1.5)  # times what was measured
_MOST_WORSE = 1.02  # times the preset's divergence, on text that nothing was chosen with
_TWICE = 5  # every so many cases are done twice, in folders of their own
_DEVELOPMENT, _TEST, _CALIBRATION = 45_000, 40_000, 20_000  # characters
_TEST_CHUNKS = 512


def _model(path: Path, chance: Random) -> Path:
    return random_models.write(
        path,
        seed=chance.randrange(2**31),
        hidden=256 * chance.choice((1, 1, 2)),
        feed_forward=chance.choice((256, 512, 768, 96)),
        blocks=chance.randint(1, 4),
        experts=chance.choice((0, 0, 0, 4)),
        tied=chance.random() < 0.5,
        spread=chance.choice((0.0, 0.7)),
    )


def _target(chance: Random) -> targets.Target:
    if chance.random() < 0.5:
        return targets.like(chance.choice(_PRESETS))
    return targets.bits_per_weight(round(chance.uniform(3.2, 7.0), 2))


def _texts() -> Dealt:
    passages = tuple(random_models.text(_DEVELOPMENT).split("\n\n"))
    return deal([Document("development", passages)], [Use.PROBING, Use.CHOOSING])


def _options(folder: Path, matrix: Path) -> OptimizeOptions:
    """As the command line has them: channels are equalized, and scales searched for."""
    return OptimizeOptions(
        effort=Effort.NORMAL,
        chunk_tokens=_LENGTH,
        quantize=QuantizeOptions(threads=2, imatrix=matrix, search_scales=True),
        running=replace(OptimizeOptions().running, threads=2),
        folder=folder,
    )


def _matrix(source: Path, folder: Path) -> Path:
    text = random_models.text(_CALIBRATION, _DEVELOPMENT + _TEST + 10_000)
    settings = ImatrixOptions(ctx_size=_LENGTH, threads=2, perplexity=False)
    make_imatrix(folder / "imatrix.gguf", model=source, calibration=Calibration(text, "text"), options=settings)
    return folder / "imatrix.gguf"


def promises(trial: Trial) -> None:
    for case in trial.cases():
        chance = trial.random(case)
        folder = trial.folder / str(case)
        folder.mkdir()
        source, target = _model(folder / "m-F16.gguf", chance), _target(chance)
        matrix = _matrix(source, folder)
        first, second = (_options(folder / name, matrix) for name in ("state", "again"))
        try:
            (made,) = optimize(source, [Job(target, folder / "a.gguf")], _texts(), first).files
        except UsageError as refused:
            if "cannot be reached" not in str(refused):
                trial.broken(case, f"{target.said}: {refused}")
            trial.add("sizes that no file can have")
            continue
        for problem in _judge(trial, made):
            trial.broken(case, f"{target.said}: {problem}")
        if made.preset is not None and made.chosen is not made.preset:
            ratio = _on_test_text(source, made, folder, first)
            trial.worst("of the preset's divergence on test text", ratio, limit=_MOST_WORSE)
        if case % _TWICE == 0:
            again = optimize(source, [Job(target, folder / "b.gguf")], _texts(), second).files[0]
            if again.types != made.types:
                trial.broken(case, f"{target.said}: the same inputs gave another recipe")


def _judge(trial: Trial, made: Optimized) -> list[str]:
    measured, candidate = made.chosen.measured.kld, made.chosen.candidate
    share, foretold = made.bytes / made.budget, candidate.predicted / measured
    by_probes = candidate.predicted_by_probes / measured
    low, high = _FORETOLD
    trial.worst("of the budget is left", 1 - share)
    trial.worst("foretold / measured", foretold)
    trial.worst("measured / foretold", 1 / foretold)
    trial.worst("foretold by probes / measured", by_probes)
    trial.worst("measured / foretold by probes", 1 / by_probes if by_probes else float("inf"))
    trial.add("chosen types" if not candidate.is_preset else "presets that nothing beat")
    found = []
    if not _LEAST_SHARE <= share <= 1:
        found.append(f"{made.bytes:,} of {made.budget:,} bytes")
    if not low <= foretold <= high:
        found.append(f"{candidate.predicted:.3g} foretold, {measured:.3g} measured")
    if made.preset is not None and measured > made.preset.measured.kld:
        found.append(f"{measured:.3g}, worse than {made.preset.candidate.name} with {made.preset.measured.kld:.3g}")
    return found


def _on_test_text(source: Path, made: Optimized, folder: Path, options: OptimizeOptions) -> float:
    """Let the file and its preset read text that nothing was chosen with; return the ratio of their divergences."""
    assert made.preset is not None
    preset = folder / "preset.gguf"
    plain = replace(options.quantize, search_scales=False)
    quantize(source, quantization_type(made.preset.candidate.name), preset, plain)
    text = folder / "test.txt"
    text.write_text(random_models.text(_TEST, _DEVELOPMENT + 5_000), encoding="utf-8")
    tokens = passes.tokenize(source, [text], folder, options.running)
    count = read_header(source).metadata.entries["tokenizer.ggml.tokens"].count
    chunks: Chunks = cut_into_chunks([text], tokens, count, length=_LENGTH, chunks=_TEST_CHUNKS)
    passes.read_base(source, chunks, folder, options.running, lambda *_: None)
    ours, theirs = (
        divergence(passes.read_against(path, path.stem, chunks, folder, options.running, lambda *_: None).scores)
        for path in (made.output, preset)
    )
    return ours.mean_kld.value / theirs.mean_kld.value


ROWS = [
    Row(
        "allocations",
        "optimized files of random models and sizes",
        "0.995 to 1 of the budget; foretold 0.67 to 1.5 times; never worse than the preset, on test text 1.02 times",
        promises,
        count=20,
        quick=0,
        engine=True,
    )
]
