"""What a backward pass says of outputs, against what transformers says when outputs are really changed."""

import gc
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import ggufkit
from ggufkit.allocation.backwards import order_of_rows, read_backwards
from ggufkit.allocation.refinement import output_moments as output_moments_module
from ggufkit.allocation.refinement.feedback import left_across_rows
from ggufkit.allocation.refinement.output_moments import bytes_of_files, output_moments
from ggufkit.checkpoints import open_checkpoint
from ggufkit.errors import CheckpointError
from ggufkit.evaluation.reference import loaded_original
from ggufkit.gguf_file.reader import GgufHeader, read_header
from ggufkit.quantization.direct import library

pytestmark = [pytest.mark.engine, pytest.mark.oracle, pytest.mark.slow]

DEMO = Path(ggufkit.__file__).parent / "demo_model"
LENGTH = 256
MODULES = {
    "blk.1.attn_q.weight": "model.layers.1.self_attn.q_proj",
    "blk.2.attn_k.weight": "model.layers.2.self_attn.k_proj",
    "blk.1.attn_v.weight": "model.layers.1.self_attn.v_proj",
    "blk.2.attn_output.weight": "model.layers.2.self_attn.o_proj",
    "blk.0.ffn_up.weight": "model.layers.0.mlp.up_proj",
    "blk.3.ffn_down.weight": "model.layers.3.mlp.down_proj",
}


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> GgufHeader:
    path = tmp_path_factory.mktemp("demo") / "demo-F16.gguf"
    ggufkit.convert(DEMO, path)
    return read_header(path)


@pytest.fixture(scope="module")
def texts() -> Sequence[Sequence[Sequence[int]]]:
    """Two texts, each as chunks."""
    from transformers import AutoTokenizer

    text = (DEMO / "heldout.txt").read_text()
    tokens = AutoTokenizer.from_pretrained(DEMO)(text, verbose=False)["input_ids"][: 16 * LENGTH]
    return np.asarray(tokens).reshape(2, -1, LENGTH).tolist()


@pytest.fixture(scope="module")
def found(
    converted: GgufHeader, texts: Sequence[Sequence[Sequence[int]]], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, np.ndarray]]:
    """The moments of both texts, of all matrices."""
    patch = pytest.MonkeyPatch()
    patch.setattr("ggufkit.allocation.refinement.output_moments._LEAST_GAIN", -1.0)
    folders = [tmp_path_factory.mktemp("outputs") for _ in texts]
    paths = [
        output_moments(DEMO, [converted], chunks, library(), folder, lambda *_: None)
        for chunks, folder in zip(texts, folders, strict=True)
    ]
    patch.undo()
    return [{name: np.load(path) for name, path in each.items()} for each in paths]


def test_every_matrix_of_a_block_is_known(converted: GgufHeader, found: list[dict[str, np.ndarray]]) -> None:
    matrices = {each.name: each.shape for each in converted.tensors if len(each.shape) == 2 and "blk" in each.name}
    assert {name: (len(moments),) * 2 for name, moments in found[0].items() if "blk" in name} == {
        name: (shape[1],) * 2 for name, shape in matrices.items()
    }
    assert "token_embd.weight" not in found[0]
    written = sum(moments.nbytes for moments in found[0].values())
    assert written <= bytes_of_files([converted]) <= 2 * written


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("direction", ["all", "most seen", "least seen"])
def test_errors_of_outputs_cost_what_it_says(
    name: str,
    direction: str,
    converted: GgufHeader,
    found: list[dict[str, np.ndarray]],
    texts: Sequence[Sequence[Sequence[int]]],
) -> None:
    """Noise is added to what a layer gives for each token, in directions that another text chose: KL is the judge."""
    import torch

    _, vectors = np.linalg.eigh(found[0][name].astype(np.float64))
    some = {"all": slice(None), "most seen": slice(-4, None), "least seen": slice(0, len(vectors) // 2)}[direction]
    chosen, chunks = vectors[:, some], texts[1]
    foretold = np.einsum("ij,ij->", chosen, found[1][name] @ chosen) / 2
    size = np.sqrt(2e-4 / foretold)
    tensor = next(each for each in converted.tensors if each.name == name)
    noise = torch.Generator().manual_seed(3)

    def disturbed(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        drawn = torch.randn((*output.shape[:-1], chosen.shape[1]), generator=noise, dtype=torch.float64)
        return output + (drawn @ torch.from_numpy(size * chosen).T).float()

    with open_checkpoint(DEMO) as checkpoint, loaded_original(checkpoint) as model, torch.no_grad():

        def read() -> torch.Tensor:
            return torch.log_softmax(model(input_ids=torch.tensor(chunks), use_cache=False).logits.double(), -1)

        base = read()
        module = model.get_submodule(MODULES[name])
        order = order_of_rows(module, converted, tensor, library())
        chosen[order] = chosen.copy()  # as the checkpoint has them
        module.register_forward_hook(disturbed)
        changed = read()
    measured = float((base.exp() * (base - changed)).sum(-1).mean())
    assert measured == pytest.approx(2e-4, rel=0.25)


def test_rows_are_in_the_order_of_the_file(converted: GgufHeader) -> None:
    """Conversion moves rows of queries, pairs of halves side by side: what belongs to a row goes with it."""
    from gguf import GGUFReader

    tensor = next(each for each in converted.tensors if each.name == "blk.2.attn_q.weight")
    stored = next(each for each in GGUFReader(converted.path).tensors if each.name == tensor.name).data
    with open_checkpoint(DEMO) as checkpoint, loaded_original(checkpoint) as model:
        module = model.get_submodule("model.layers.2.self_attn.q_proj")
        order = order_of_rows(module, converted, tensor, library())
        own = module.weight.detach().numpy()
    assert order is not None
    assert not np.array_equal(order, np.arange(len(order)))
    np.testing.assert_array_equal(own[order].astype(np.float16), stored)


def test_what_would_gain_little_is_left_out(
    converted: GgufHeader,
    texts: Sequence[Sequence[Sequence[int]]],
    found: list[dict[str, np.ndarray]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = {name: left_across_rows(moments.astype(np.float64)) for name, moments in found[0].items()}
    middle = float(np.median(list(left.values())))
    monkeypatch.setattr("ggufkit.allocation.refinement.output_moments._LEAST_GAIN", 1 - middle)
    kept = output_moments(DEMO, [converted], texts[0], library(), tmp_path, lambda *_: None)
    assert set(kept) == {name for name in left if left[name] < middle}
    assert sum("attn" in name for name in kept) > sum("ffn_gate" in name or "ffn_up" in name for name in kept)
    for name, path in kept.items():
        np.testing.assert_array_equal(np.load(path), found[0][name])


def test_a_token_whose_errors_are_nothing_counts_for_nothing(
    converted: GgufHeader, texts: Sequence[Sequence[Sequence[int]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An embedding of zeros, as BOS has where it was never trained: norms behind it divide by next to nothing."""
    unused = max(set(range(1000)).difference(texts[0][0]))
    chunks = [[unused, *texts[0][0][1:]]]
    with open_checkpoint(DEMO) as checkpoint, loaded_original(checkpoint) as model:
        model.get_input_embeddings().weight.data[unused] = 0
        model.save_pretrained(tmp_path / "zeros")

    def trace(name: str) -> float:
        found = output_moments(tmp_path / "zeros", [converted], chunks, library(), tmp_path / name, lambda *_: None)
        return float(np.load(found["blk.1.attn_v.weight"]).trace())

    usual = output_moments(DEMO, [converted], [texts[0][0]], library(), tmp_path / "usual", lambda *_: None)
    weighed = trace("weighed")
    assert weighed == pytest.approx(float(np.load(usual["blk.1.attn_v.weight"]).trace()), rel=0.3)
    monkeypatch.setattr(output_moments_module, "_weights", lambda given: given.square().sum(-1) * 0 + 1)
    assert trace("not weighed") > 1e6 * weighed


def test_nothing_is_held_when_all_is_read(texts: Sequence[Sequence[Sequence[int]]]) -> None:
    """Neither the model nor what each chunk has left in it: a hundred chunks would take gigabytes."""
    import torch

    outputs: list[weakref.ref[torch.Tensor]] = []
    with open_checkpoint(DEMO) as checkpoint, loaded_original(checkpoint) as model:
        module = model.get_submodule("model.layers.1.mlp.down_proj")
        module.register_forward_hook(lambda _module, _inputs, output: outputs.append(weakref.ref(output)))
        for _ in read_backwards(model, [module], texts[0][:2], LENGTH - 1, 2, lambda *_: None):
            pass
        held = weakref.ref(module)
        del module, model
    gc.collect()
    assert [output() for output in outputs] == [None, None]
    assert held() is None


def test_tokens_that_the_checkpoint_does_not_know_are_an_error_of_ours() -> None:
    with open_checkpoint(DEMO) as checkpoint, loaded_original(checkpoint) as model:
        module = model.get_submodule("model.layers.1.mlp.down_proj")
        with pytest.raises(CheckpointError, match="cannot be read backwards"):
            list(read_backwards(model, [module], [[1, 2, 100_000]], 2, 1, lambda *_: None))
