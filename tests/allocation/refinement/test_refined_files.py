"""Refined files of a small random model: as large as the others, better on unseen text, and nothing is left behind."""

from dataclasses import replace
from pathlib import Path

import pytest
import random_models

from ggufkit.allocation import targets
from ggufkit.allocation.optimize import Job, optimize
from ggufkit.allocation.options import Effort, OptimizeOptions
from ggufkit.allocation.results import Optimization
from ggufkit.allocation.texts import Dealt, Document, Use, deal
from ggufkit.errors import UsageError
from ggufkit.gguf_file.reader import read_header
from ggufkit.quantization import recipe
from ggufkit.quantization.options import QuantizeOptions

pytestmark = pytest.mark.engine
LENGTH = 64


def made(source: Path, folder: Path, uses: list[Use]) -> Optimization:
    passages = tuple(random_models.text(30_000).split("\n\n"))
    texts: Dealt = deal([Document("text", passages)], uses)
    options = OptimizeOptions(
        effort=Effort.FAST,
        pool="q3_k,q4_k,q5_k,q6_k",
        chunk_tokens=LENGTH,
        quantize=QuantizeOptions(threads=1),
        running=replace(OptimizeOptions().running, threads=1),
        folder=folder / "state",
        refine=True,
    )
    return optimize(source, [Job(targets.like("Q4_K_M"), folder / "out.gguf")], texts, options)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_models.write(tmp_path_factory.mktemp("refined") / "random-F16.gguf")


def test_refined_weights_are_shipped_where_they_are_better(source: Path, tmp_path: Path) -> None:
    before = source.read_bytes()
    (file,) = made(source, tmp_path, list(Use)).files
    refined = [each for each in file.verified if each.candidate.refined]
    plain = [each for each in file.verified if not each.candidate.refined]
    assert file.chosen in refined
    assert file.chosen.measured.kld < 0.85 * min(each.measured.kld for each in plain)
    header = read_header(file.output)
    types = {tensor.name: tensor.type for tensor in header.tensors}
    assert header.file_size == file.bytes <= file.budget
    assert all(types[name] is kind for name, kind in file.types.items())
    assert any(tensor.accepted and tensor.after < tensor.before for tensor in file.refined)
    assert recipe.read(file.recipe).refined is True
    assert source.read_bytes() == before
    assert not (tmp_path / "state" / "refining").exists()


def test_text_that_only_chooses_is_not_learned_from(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--refine needs text"):
        made(source, tmp_path, [Use.PROBING, Use.CHOOSING])
