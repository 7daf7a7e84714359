"""Refined files of a small random model: as large as the others, better on unseen text, and nothing is left behind."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import random_models

from ggufkit.allocation import targets
from ggufkit.allocation.optimize import Job, optimize
from ggufkit.allocation.options import Effort, OptimizeOptions
from ggufkit.allocation.refinement import child
from ggufkit.allocation.refinement.feedback import stored
from ggufkit.allocation.refinement.pieces import Piece
from ggufkit.allocation.results import Optimization
from ggufkit.allocation.texts import Dealt, Document, Use, deal
from ggufkit.allocation.weights import to_float32
from ggufkit.errors import UsageError
from ggufkit.gguf_file.reader import GgufHeader, TensorInfo, read_header
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp import ggml
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


BOOK = TensorType.IQ3_S
REJECTED = "blk.0.ffn_up.weight"


# As `child.main`, but one matrix is not accepted.
REFINING = f"""
from ggufkit.allocation.refinement import child
refine = child._Work.refine
child._Work.refine = lambda work, piece, *moments: refine(work, piece, *moments) and piece.name != {REJECTED!r}
child.main()
"""


@pytest.fixture
def refined_copy(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Refine all matrices of a block for a type with a book, of which one is not accepted; return model and copy."""

    def make(memory: int, dtype: type = np.float16) -> tuple[Path, Path]:
        source = random_models.write(tmp_path / "model.gguf", seed=5, blocks=1, tied=False, dtype=dtype)
        copy = tmp_path / "copy.gguf"
        copy.write_bytes(source.read_bytes())
        names = [tensor.name for tensor in read_header(source).tensors if tensor.name.startswith("blk.0.")]
        text = np.frombuffer(random_models.text(40_000).encode(), np.uint8)[: 240 * LENGTH] % 200
        text.astype("<i4").tofile(tmp_path / "tokens")
        request = child.RefiningRequest(
            sources=(str(source),),
            copies=(str(copy),),
            tokens=str(tmp_path / "tokens"),
            chunk_tokens=LENGTH,
            chunks=240,
            types={name: BOOK.name for name in names if "norm" not in name},
            results=str(tmp_path / "results"),
            threads=1,
            memory=memory,
            in_order=True,
        )
        request.write(tmp_path / "request.json")
        command = [sys.executable, "-c", REFINING, tmp_path / "request.json"]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
        return source, copy

    return make


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("memory", [1 << 30, 8_000_000], ids=["in order", "at once, for want of memory"])
def test_the_copy_ends_with_what_is_stored_as_the_refined_values(
    memory: int, dtype: type, refined_copy: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    library = ggml.load()
    assert library
    source, copy = refined_copy(memory, dtype)
    told = {line["tensor"]: line for line in map(json.loads, (tmp_path / "results").read_text().splitlines())}
    before, after = source.read_bytes(), copy.read_bytes()
    assert len(told) == 7
    for tensor in read_header(copy).tensors:
        place = slice(tensor.offset, tensor.offset + tensor.size)
        if tensor.name not in told or tensor.name == REJECTED:
            assert after[place] == before[place]
            continue
        assert told[tensor.name]["accepted"]
        held = to_float32(library, np.frombuffer(after[place], np.uint8), tensor.type).reshape(-1, tensor.shape[0])
        values = stored(library, held, BOOK, None)
        # llama-quantize stretches scales by 1.033 once it has found them, so what it is handed is smaller.
        assert np.vdot(held, values) / np.vdot(values, values) == pytest.approx(1 / 1.033, abs=1e-3)
        assert np.linalg.norm(1.033 * held - values) < 0.02 * np.linalg.norm(values)
