"""`search_scales`: both engines write the same better file, of the same size, and nothing else changes in it."""

from pathlib import Path

import numpy as np
import pytest
import tiny_gguf

from ggufkit.errors import MissingDependencyError
from ggufkit.gguf_file.reader import read_header
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp.dequantize import dequantize
from ggufkit.progress import silent
from ggufkit.quantization.engines import Engine
from ggufkit.quantization.importance import load_importance
from ggufkit.quantization.plan import QuantizeOptions
from ggufkit.quantization.quantize import quantize, quantize_all
from ggufkit.quantization.scale_search import searched

pytestmark = pytest.mark.engine

SEARCHING = QuantizeOptions(search_scales=True, threads=2)


def tensors(path: Path) -> dict[str, tuple[TensorType, np.ndarray]]:
    content = np.fromfile(path, np.uint8)
    return {
        tensor.name: (tensor.type, content[tensor.offset : tensor.offset + tensor.size])
        for tensor in read_header(path).tensors
    }


def losses(source: Path, path: Path) -> dict[str, float]:
    """Return the plain squared error of every quantized tensor."""
    ours, originals = tensors(path), tensors(source)
    return {
        name: float(np.square(decoded(*ours[name]) - decoded(*originals[name])).sum())
        for name in ours
        if ours[name][0].is_quantized
    }


def decoded(kind: TensorType, content: np.ndarray) -> np.ndarray:
    return dequantize(content, int(kind), content.size // kind.block_bytes * kind.block_size).astype(np.float64)


@pytest.mark.parametrize("kind", ["Q4_K_M", "Q3_K_S", "IQ4_XS", "Q5_0", "IQ3_S"])
def test_both_engines_write_the_same_better_file(kind: str, models: Path, tmp_path: Path) -> None:
    source = models / "even-F16.gguf"
    plain, binary, direct = (tmp_path / f"{name}.gguf" for name in ("plain", "binary", "direct"))
    quantize(source, kind, plain)
    quantize(source, kind, binary, SEARCHING, engine=Engine.BINARY)
    quantize(source, kind, direct, SEARCHING, engine=Engine.DIRECT)
    assert binary.read_bytes() == direct.read_bytes()
    # llama-quantize wrote the header; types, places and what is not quantized are as ever.
    assert binary.stat().st_size == plain.stat().st_size
    start = read_header(plain).data_offset
    assert binary.read_bytes()[:start] == plain.read_bytes()[:start]
    before, after = losses(source, plain), losses(source, binary)
    assert len(after) >= 8
    assert sum(after.values()) < 0.99 * sum(before.values())


def test_each_tensor_is_judged_by_its_own_importance(models: Path, tmp_path: Path) -> None:
    source, names = models / "even-F16.gguf", ("blk.0.ffn_up.weight", "blk.1.attn_q.weight")
    matrix = tiny_gguf.write_imatrix(tmp_path / "imatrix.gguf")
    plain, better = tmp_path / "plain.gguf", tmp_path / "better.gguf"
    quantize(source, "IQ4_XS", plain, QuantizeOptions(imatrix=matrix))
    quantize(source, "IQ4_XS", better, QuantizeOptions(imatrix=matrix, search_scales=True))
    importance = load_importance(matrix).values
    shapes = {tensor.name: tensor.shape for tensor in read_header(source).tensors}
    for name in names:
        kind, before = tensors(plain)[name]
        weights = tensors(source)[name][1].view(np.float16).astype(np.float32)
        own, without = (searched(weights, before, kind, shapes[name][0], each) for each in (importance[name], None))
        assert np.array_equal(tensors(better)[name][1], own)
        assert not np.array_equal(own, without)


def test_what_cannot_be_searched_is_told(models: Path, tmp_path: Path) -> None:
    """A source that is quantized already has lost what the search would go by; some types are not known to it."""
    once = tmp_path / "once.gguf"
    quantize(models / "even-F16.gguf", "Q8_0", once)
    options = QuantizeOptions(search_scales=True, allow_requantize=True)
    result = quantize(once, "Q4_0", tmp_path / "twice.gguf", options)
    assert any("not searched for" in note for note in result.notes)
    mixed = QuantizeOptions(search_scales=True, tensor_types=(("blk.0.ffn_up", TensorType.TQ2_0),))
    result = quantize(models / "even-F16.gguf", "Q4_0", tmp_path / "mixed.gguf", mixed)
    assert any("not searched for" in note and "TQ2_0" in note for note in result.notes)
    assert not quantize(models / "even-F16.gguf", "Q4_0", tmp_path / "all.gguf", SEARCHING).notes


def test_without_libggml_it_is_refused_before_any_work(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ggufkit.llamacpp.ggml.load", lambda: None)
    with pytest.raises(MissingDependencyError, match="libggml"):
        quantize(models / "even-F16.gguf", "Q4_0", tmp_path / "out.gguf", SEARCHING, engine=Engine.BINARY)
    assert not list(tmp_path.iterdir())


def test_experts_have_importance_of_their_own(tmp_path: Path) -> None:
    source, matrix = tiny_gguf.write_experts(tmp_path / "experts.gguf", tmp_path / "imatrix.gguf")
    options = QuantizeOptions(imatrix=matrix, search_scales=True)
    binary, direct, plain = (tmp_path / f"{name}.gguf" for name in ("binary", "direct", "plain"))
    quantize(source, "Q4_0", binary, options, engine=Engine.BINARY)
    quantize(source, "Q4_0", direct, options, engine=Engine.DIRECT)
    quantize(source, "Q4_0", plain, QuantizeOptions(imatrix=matrix))
    assert binary.read_bytes() == direct.read_bytes()
    header = {tensor.name: tensor for tensor in read_header(source).tensors}
    importance = load_importance(matrix).values
    stacked = [name for name in tensors(plain) if "_exps" in name]
    assert stacked
    for name in stacked:
        columns, rows, experts = header[name].shape
        weights = importance[name].reshape(experts, 1, columns)
        original = decoded(*tensors(source)[name]).reshape(experts, rows, columns)
        lost, was = (
            (np.square(decoded(*tensors(path)[name]).reshape(original.shape) - original) * weights).sum(axis=(1, 2))
            for path in (binary, plain)
        )
        assert (lost < was).all()


def test_pruned_layers_are_searched_by_the_weights_that_they_come_from(models: Path, tmp_path: Path) -> None:
    source = models / "even-F16.gguf"
    pruned, whole = tmp_path / "pruned.gguf", tmp_path / "whole.gguf"
    quantize(source, "Q4_0", pruned, QuantizeOptions(prune_layers=(0,), search_scales=True))
    quantize(source, "Q4_0", whole, SEARCHING)
    left, all_of_it = tensors(pruned), tensors(whole)
    name = "ffn_up.weight"
    assert np.array_equal(left[f"blk.0.{name}"][1], all_of_it[f"blk.1.{name}"][1])


def test_a_finished_file_is_made_again_where_scales_were_not_searched(models: Path, tmp_path: Path) -> None:
    source, path = models / "even-F16.gguf", tmp_path / "out.gguf"
    other = tmp_path / "other.gguf"
    jobs = [("Q4_0", path), ("Q8_0", other)]
    quantize_all(source, jobs, resume=True, progress=silent)
    again = quantize_all(source, jobs, resume=True)
    assert [result.was_there for result in again] == [True, True]
    plain = path.read_bytes()
    searched = quantize_all(source, jobs, SEARCHING, resume=True)
    assert [result.was_there for result in searched] == [False, False]
    assert path.read_bytes() != plain


def test_progress_of_the_search_ends_where_it_should(models: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    quantize(
        models / "even-F16.gguf",
        "Q4_K_M",
        tmp_path / "out.gguf",
        SEARCHING,
        engine=Engine.BINARY,
        progress=lambda stage, done, total, unit="bytes": told.append((stage, done, total)),  # noqa: ARG005 - the signature
    )
    searching = [(done, total) for stage, done, total in told if stage == "Searching scales"]
    assert searching[-1][0] == searching[-1][1] > 0
    assert [done for done, _ in searching] == sorted(done for done, _ in searching)
