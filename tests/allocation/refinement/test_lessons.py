"""What a checkpoint teaches refining: files get better by it, and without it all goes on as before."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import random_models
import tiny_checkpoints

import ggufkit
from ggufkit.allocation import targets
from ggufkit.allocation.optimize import Job, optimize
from ggufkit.allocation.options import Effort, OptimizeOptions
from ggufkit.allocation.results import Optimized
from ggufkit.allocation.texts import Document, Use, deal
from ggufkit.conversion import OutputType
from ggufkit.quantization.options import QuantizeOptions

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose output layer sees little but 8 directions, in which errors must not lie."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    folder = tiny_checkpoints.make("llama", tmp_path_factory.mktemp("checkpoint"))
    weights = load_file(folder / "model.safetensors")
    chance = np.random.default_rng(0)
    rows, columns = weights["lm_head.weight"].shape
    seen = chance.standard_normal((rows, 8)) @ chance.standard_normal((8, columns))
    weights["lm_head.weight"] = (0.05 * seen + 0.005 * weights["lm_head.weight"]).astype(np.float32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def source(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "tiny-F32.gguf"
    ggufkit.convert(checkpoint, path, outtype=OutputType.F32)
    return path


def refined(source: Path, original: Path | None, folder: Path) -> tuple[Optimized, list[str]]:
    """Return a refined file, and what was warned of."""
    options = OptimizeOptions(
        effort=Effort.FAST,
        pool="iq4_nl,q5_0,q8_0",
        chunk_tokens=64,
        quantize=QuantizeOptions(threads=1),
        running=replace(OptimizeOptions().running, threads=1),
        folder=folder / "state",
        refine=True,
        original=original,
    )
    texts = deal([Document("text", tuple(random_models.text(40_000).split("\n\n")))], list(Use))
    warnings: list[str] = []
    found = optimize(source, [Job(targets.like("Q4_K_M"), folder / "out.gguf")], texts, options, warn=warnings.append)
    return found.files[0], [each for each in warnings if any(word in each for word in ("outputs", "matrices", "numba"))]


@pytest.fixture(scope="module")
def alone(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Optimized:
    file, warnings = refined(source, None, tmp_path_factory.mktemp("alone"))
    assert not warnings
    assert file.chosen.candidate.refined
    return file


def test_files_are_better_where_the_checkpoint_is_known(
    source: Path, checkpoint: Path, alone: Optimized, tmp_path: Path
) -> None:
    file, warnings = refined(source, checkpoint, tmp_path)
    assert not warnings
    assert file.chosen.measured.kld < 0.9 * alone.chosen.measured.kld
    assert not (tmp_path / "state" / "refining").exists()


def test_the_checkpoint_of_another_model_teaches_nothing(
    source: Path, alone: Optimized, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tiny_checkpoints.make("llama-tied", tmp_path_factory.mktemp("other"))
    file, warnings = refined(source, other, tmp_path)
    assert len(warnings) == 1
    assert "holds none of this model's matrices" in warnings[0]
    assert file.chosen.measured.kld == alone.chosen.measured.kld


def test_without_torch_rows_are_refined_each_for_itself_and_without_numba_it_takes_longer(
    source: Path, checkpoint: Path, alone: Optimized, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr("ggufkit.allocation.refinement.lessons.compiled", lambda: None)
    file, warnings = refined(source, checkpoint, tmp_path)
    assert len(warnings) == 2
    assert "numba" in warnings[0]
    assert "torch is not installed" in warnings[1]
    assert file.chosen.measured.kld == alone.chosen.measured.kld


def test_moments_of_outputs_that_have_grown_shrink(tmp_path: Path) -> None:
    """Of y' = y * r, whose gradient is g / r, E[g' g'^T] is what gradients of y' give when they are drawn."""
    import numpy as np

    from ggufkit.allocation.refinement.lessons import _scale

    chance, rows = np.random.default_rng(0), np.array([1, 0.03, 8], np.float32)
    gradients = chance.standard_normal((100, 3)).astype(np.float32)
    path = tmp_path / "moments.npy"
    np.save(path, gradients.T @ gradients)
    _scale(path, rows)
    grown = gradients / rows
    np.testing.assert_allclose(np.load(path), grown.T @ grown, rtol=1e-5)
