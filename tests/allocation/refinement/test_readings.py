"""Readings in order: which matrices read the same, and what the inputs become behind weights that were changed."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import random_models

import ggufkit
from ggufkit.allocation.refinement.readings import (
    Inputs,
    at_once,
    in_order,
    is_held_out,
    places,
    scales_of,
    tokens_in_order,
    tokens_read_in_order,
)
from ggufkit.gguf_file.reader import read_header

pytestmark = pytest.mark.engine
DEMO = Path(ggufkit.__file__).parent / "demo_model"
LENGTH, CHUNKS = 64, 10


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_models.write(tmp_path_factory.mktemp("readings") / "model-F16.gguf")


@pytest.fixture(scope="module")
def chunks() -> np.ndarray:
    return np.random.default_rng(0).integers(3, 200, (CHUNKS, LENGTH)).astype(np.int32)


def columns_of(path: Path) -> dict[str, int]:
    return {tensor.name: tensor.shape[0] for tensor in read_header(path).tensors if len(tensor.shape) > 1}


def scaled(path: Path, name: str, factor: float) -> None:
    """Multiply a tensor of a file, F16, in place."""
    header = read_header(path)
    (tensor,) = (each for each in header.tensors if each.name == name)
    values = np.memmap(path, "<f2", "r+", tensor.offset, shape=(int(np.prod(tensor.shape)),))
    values[:] *= np.float16(factor)
    values.flush()


def test_places_are_told_in_the_order_of_the_graph(model: Path, chunks: np.ndarray) -> None:
    order = places(model, list(columns_of(model)), chunks[0].tolist(), 1)
    assert [sorted(tensors) for tensors in order[:4]] == [
        ["blk.0.attn_k.weight", "blk.0.attn_q.weight", "blk.0.attn_v.weight"],
        ["blk.0.attn_output.weight"],
        ["blk.0.ffn_gate.weight", "blk.0.ffn_up.weight"],
        ["blk.0.ffn_down.weight"],
    ]
    assert order[4][0].startswith("blk.1.attn_")


@pytest.mark.parametrize("memory", [1, 1 << 30], ids=["place by place", "all kept"])
def test_an_untouched_copy_gives_the_sums_of_one_reading(model: Path, chunks: np.ndarray, memory: int) -> None:
    columns = columns_of(model)
    order = places(model, list(columns), chunks[0].tolist(), 1)
    learned, held = at_once(model, list(columns), chunks, 1, lambda _: None)
    found = list(in_order(model, model, order, columns, chunks, threads=1, memory=memory))
    assert len(found) == len(order)
    for tensors, (own, judging) in zip(order, found, strict=True):
        for name in tensors:
            for moments, expected in ((own[name], learned[name]), (judging[name], held[name])):
                assert moments.tokens == expected.tokens
                np.testing.assert_allclose(moments.given, expected.given, rtol=1e-4, atol=1e-4)
                assert moments.drift is not None
                assert np.abs(moments.drift).max() == 0
    assert learned[order[0][0]].tokens == 4 * held[order[0][0]].tokens


def test_what_was_changed_before_a_place_shows_there_and_not_earlier(
    model: Path, chunks: np.ndarray, tmp_path: Path
) -> None:
    copy = Path(shutil.copy(model, tmp_path / "copy.gguf"))
    columns = columns_of(model)
    order = places(model, list(columns), chunks[0].tolist(), 1)
    readings = in_order(model, copy, order, columns, chunks, threads=1, memory=1 << 30)
    for tensors, (learned, _) in zip(order, readings, strict=True):
        moments = learned[tensors[0]]
        assert moments.drift is not None
        assert moments.inherited is not None
        if tensors == ["blk.0.attn_output.weight"]:
            # attention is linear in its values: with half of them the inputs are half, X - X' is X'
            np.testing.assert_allclose(moments.drift, moments.given, rtol=1e-2, atol=1e-2)
            np.testing.assert_allclose(moments.inherited, moments.given, rtol=1e-2, atol=1e-2)
            break
        assert np.abs(moments.drift).max() == 0
        scaled(copy, "blk.0.attn_v.weight", 0.5)


def test_experts_are_read_together_and_unpaired(tmp_path: Path, chunks: np.ndarray) -> None:
    model = random_models.write(tmp_path / "experts-F16.gguf", seed=3, blocks=1, experts=4)
    columns = {}
    for name, size in columns_of(model).items():
        columns |= {f"{name}[{expert}]": size for expert in range(4)} if "_exps" in name else {name: size}
    order = places(model, list(columns), chunks[0].tolist(), 1)
    assert ["blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight"] in [sorted(tensors) for tensors in order]
    learned, _ = at_once(model, list(columns), chunks, 1, lambda _: None)
    for own, _ in in_order(model, model, order, columns, chunks, threads=1, memory=1 << 30):
        for name, moments in own.items():
            np.testing.assert_allclose(moments.given, learned[name].given, rtol=1e-4, atol=1e-4)
            assert (moments.drift is None) == ("_exps" in name)


@pytest.mark.parametrize("count", [1, 3, 4])
def test_of_little_text_the_last_part_is_held_out(model: Path, chunks: np.ndarray, count: int) -> None:
    name = "blk.0.ffn_down.weight"
    learned, held = at_once(model, [name], chunks[:count], 1, lambda _: None)
    assert held[name].tokens == LENGTH
    assert learned[name].tokens == (count - 1) * LENGTH if count > 1 else name not in learned


def test_larger_models_are_read_with_less_text() -> None:
    assert tokens_in_order(1_000_000, 20) > tokens_in_order(10_000_000, 20) >= tokens_in_order(10**9, 20) > 0
    assert tokens_read_in_order(1_000_000, 20, 50_000) < tokens_read_in_order(1_000_000, 20, 100_000)


def test_tokens_count_by_how_much_the_model_doubts_what_follows(tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = tmp_path / "demo-F16.gguf"
    ggufkit.convert(DEMO, model)
    tokens = np.random.default_rng(0).integers(10, 1500, (3, LENGTH)).astype(np.int32)
    reference = transformers.AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32).eval()
    with torch.no_grad():
        shares = torch.softmax(reference(torch.tensor(tokens, dtype=torch.long)).logits, -1).double()
    weights = np.sqrt(1 - shares.square().sum(-1).numpy())
    found = scales_of(model, tokens, 1)
    assert found.shape == tokens.shape
    np.testing.assert_allclose(np.square(found), weights / weights.mean(), rtol=2e-2)
    assert np.square(found, dtype=np.float64).mean() == pytest.approx(1, rel=1e-5)
    assert np.ptp(weights) > 0.3, "all tokens alike would show nothing"


def test_scales_count_in_the_sums(model: Path, chunks: np.ndarray) -> None:
    names = list(columns_of(model))
    scales = np.random.default_rng(1).uniform(0.1, 2, chunks.shape).astype(np.float32)
    learned, _ = at_once(model, names, chunks, 1, lambda _: None, scales)
    order = places(model, names, chunks[0].tolist(), 1)
    in_turn = list(in_order(model, model, order, columns_of(model), chunks, threads=1, memory=1 << 30, scales=scales))
    name = "blk.1.ffn_down.weight"
    expected = 0.0
    with Inputs(model, [name], length=LENGTH, threads=1) as reader:
        for number, chunk in enumerate(chunks.tolist()):
            if not is_held_out(number, CHUNKS):
                reader.read(chunk)
                weighed = reader.found[name].astype(np.float64) * scales[number][:, None]
                expected = expected + weighed.T @ weighed
    np.testing.assert_allclose(learned[name].given, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    (found,) = (own[name] for own, _ in in_turn if name in own)
    np.testing.assert_allclose(found.given, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_experts_get_the_scales_of_their_tokens(tmp_path: Path) -> None:
    model = random_models.write(tmp_path / "experts-F16.gguf", seed=3, blocks=1, experts=4)
    chunk = np.random.default_rng(0).integers(3, 200, LENGTH).tolist()
    scales = np.linspace(0.5, 1.5, LENGTH).astype(np.float32)
    names = [f"blk.0.ffn_up_exps.weight[{expert}]" for expert in range(4)]
    with Inputs(model, names, length=LENGTH, threads=1) as reader:
        reader.read(chunk)
        plain = reader.found
        reader.read(chunk, scales)
    told = {
        name: np.linalg.norm(rows, axis=1) / np.linalg.norm(plain[name], axis=1) for name, rows in reader.found.items()
    }
    assert told
    for name, ratios in told.items():
        tokens = np.rint((ratios - 0.5) * (LENGTH - 1)).astype(int)
        np.testing.assert_allclose(ratios, scales[tokens], rtol=1e-4)
        assert len(plain[name]) == len(set(tokens)), "each token once"
    counts = np.bincount(np.concatenate([np.rint((each - 0.5) * (LENGTH - 1)).astype(int) for each in told.values()]))
    assert set(counts) == {2}, "every token goes to two experts"
