"""Refined files of a small random model: as large as the others, better on unseen text, and nothing is left behind."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import random_models

from ggufkit.allocation import targets
from ggufkit.allocation.optimize import Job, optimize
from ggufkit.allocation.options import Effort, OptimizeOptions
from ggufkit.allocation.refinement import child
from ggufkit.allocation.refinement.pieces import Piece
from ggufkit.allocation.results import Optimization
from ggufkit.allocation.texts import Dealt, Document, Use, deal
from ggufkit.errors import UsageError
from ggufkit.gguf_file.reader import GgufHeader, TensorInfo, read_header
from ggufkit.gguf_file.tensor_types import TensorType
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


def test_embeddings_that_are_the_output_too_come_first(tmp_path: Path) -> None:
    """All other matrices read what they become, so these are refined for inputs behind them."""
    source = random_models.write(tmp_path / "tied-F16.gguf", tied=True, blocks=1)
    (file,) = made(source, tmp_path, list(Use)).files
    assert [tensor.tensor for tensor in file.refined][:2] == ["token_embd.weight", "blk.0.attn_q.weight"]
    assert all(tensor.left >= 0 for tensor in file.refined)


def test_embeddings_that_are_only_looked_up_come_first_too(source: Path, tmp_path: Path) -> None:
    (file,) = made(source, tmp_path, list(Use)).files
    first, second, *_ = file.refined
    assert (first.tensor, second.tensor) == ("token_embd.weight", "blk.0.attn_q.weight")
    assert first.accepted
    assert first.left < 1


def test_text_that_only_chooses_is_not_learned_from(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--refine needs text"):
        made(source, tmp_path, [Use.PROBING, Use.CHOOSING])


def test_each_expert_is_refined_by_the_tokens_sent_to_it(tmp_path: Path) -> None:
    """Experts are matrices of their own: refined where enough tokens came, and the reason is told where not."""
    source = random_models.write(tmp_path / "experts-F16.gguf", seed=3, blocks=1, experts=4)
    (file,) = made(source, tmp_path, list(Use)).files
    told = {tensor.tensor: tensor for tensor in file.refined}
    experts = {name for name in told if "_exps" in name}
    assert {"blk.0.ffn_up_exps.weight[0]", "blk.0.ffn_down_exps.weight[3]"} <= experts
    assert len(experts) == 12
    assert any(told[name].accepted and told[name].after < told[name].before for name in experts)
    assert all(told[name].accepted or told[name].reason or told[name].before is not None for name in experts)


def test_what_memory_does_not_hold_is_left_and_said() -> None:
    def piece(columns: int, number: int) -> Any:
        tensor = TensorInfo(f"m{number}", (columns, 8), TensorType.F16, 0, 2 * columns * 8)
        return Piece(cast("GgufHeader", None), tensor, 0, -1, -1)

    narrow = [piece(256, number) for number in range(60)]
    batches, left = child._batches([piece(8192, 99), *narrow], 10 * 8 * 256**2)
    assert left[0][0].name == "m99"
    assert "rows of 8192 need" in left[0][1]
    assert sum(map(len, batches)) + len(left) == 61
    assert all(len(batch) * 2 + 5 <= 10 for batch in batches)
    assert left[1:]
    assert all("more than 24 times" in reason for _, reason in left[1:])
