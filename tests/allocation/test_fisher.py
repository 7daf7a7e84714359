"""The backward pass against what transformers says when single matrices are really changed."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import random_models

import ggufkit
from ggufkit.allocation.choices import Choices, choices_of, pool_named
from ggufkit.allocation.equalization.factors import Equalization, factors_of
from ggufkit.allocation.fisher import fisher, fisher_sensitivities, seen_by_fisher
from ggufkit.allocation.model import open_model
from ggufkit.allocation.options import Effort, How, OptimizeOptions
from ggufkit.allocation.probes import reference_of
from ggufkit.allocation.study import questions_of
from ggufkit.allocation.weights import Floats, through
from ggufkit.checkpoints import open_checkpoint
from ggufkit.errors import CheckpointError, UsageError
from ggufkit.evaluation.likelihood.texts import Chunks, cut_into_chunks
from ggufkit.evaluation.reference import loaded_original
from ggufkit.gguf_file.reader import GgufHeader, read_header
from ggufkit.progress import silent
from ggufkit.quantization.direct import library
from ggufkit.quantization.options import QuantizeOptions

pytestmark = [pytest.mark.engine, pytest.mark.oracle, pytest.mark.slow]

DEMO = Path(ggufkit.__file__).parent / "demo_model"
MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> GgufHeader:
    path = tmp_path_factory.mktemp("demo") / "demo-F16.gguf"
    ggufkit.convert(DEMO, path)
    return read_header(path)


@pytest.fixture(scope="module")
def chunks(tmp_path_factory: pytest.TempPathFactory) -> Chunks:
    from transformers import AutoTokenizer

    text = DEMO / "heldout.txt"
    tokens = AutoTokenizer.from_pretrained(DEMO)(text.read_text(), verbose=False)["input_ids"]
    return cut_into_chunks([text], [np.asarray(tokens, np.int32)], 1536, length=256, chunks=4)


def divergences(
    header: GgufHeader, choices: tuple[Choices, ...], chunks: Chunks, scaled: Equalization
) -> Mapping[str, float]:
    """Change one matrix after the other in transformers, and compute the divergence from the unchanged model."""
    import torch

    def read(model: torch.nn.Module) -> list[torch.Tensor]:
        with torch.no_grad():
            batch = model(input_ids=torch.tensor(chunks.tokens), use_cache=False).logits
        return [torch.log_softmax(each[-1 - chunks.scored : -1].double(), -1) for each in batch]

    found, tensors = {}, {tensor.name: tensor for tensor in header.tensors}
    with open_checkpoint(DEMO) as checkpoint, loaded_original(checkpoint) as model:
        base = read(model)
        modules = dict(model.named_modules())
        for choice in choices:
            parts = choice.name.split(".")
            name = f"model.layers.{parts[1]}.{MODULES[parts[2]]}" if parts[0] == "blk" else "lm_head"
            weight = modules[name].weight
            kept = weight.data
            factors = scaled.of_rows(tensors[choice.name])
            values = kept.numpy() * factors
            stored = through(library(), values.reshape(-1), reference_of(choice), kept.shape[1], None)
            weight.data = torch.from_numpy(stored.reshape(kept.shape) / factors)
            found[choice.name] = float(
                np.mean([(a.exp() * (a - b)).sum(-1).mean() for a, b in zip(base, read(model), strict=True)])
            )
            weight.data = kept
    return found


@pytest.mark.parametrize("is_equalized", [False, True])
def test_one_backward_pass_foretells_what_changing_each_matrix_alone_costs(
    converted: GgufHeader, chunks: Chunks, tmp_path: Path, is_equalized: bool
) -> None:
    ones = {each.name: np.ones(each.shape[0], np.float32) for each in converted.tensors if "blk" in each.name}
    scaled = factors_of([converted], ones, library()) if is_equalized else Equalization({})
    assert bool(scaled.count) is is_equalized
    tensors = [tensor for tensor in converted.tensors if len(tensor.shape) > 1]
    choices = choices_of(tensors, pool_named("usual", 4.5), {})
    told = fisher_sensitivities(DEMO, [converted], choices, {}, chunks, library(), tmp_path, scaled=scaled)
    assert told.keys() == {choice.name for choice in choices}  # q and k too, whose rows converting permutes
    measured = divergences(converted, [choice for choice in choices if "token_embd" not in choice.name], chunks, scaled)
    ours, theirs = (np.log([of[name] for name in measured]) for of in ({n: s.cost for n, s in told.items()}, measured))
    assert np.corrcoef(ours, theirs)[0, 1] > 0.9
    assert 0.5 < np.exp(np.mean(ours - theirs)) < 2
    assert np.abs(ours - theirs).max() < np.log(4)


def test_what_it_tells_is_not_probed_and_what_it_leaves_out_is(tmp_path: Path) -> None:
    model = open_model(random_models.write(tmp_path / "m.gguf", experts=4), QuantizeOptions(), "k-quants", [], ())
    asked = OptimizeOptions(sensitivity=How.FISHER)
    seen = seen_by_fisher(model, asked)
    assert seen_by_fisher(model, OptimizeOptions()) == ()
    probed = {name for group in questions_of(model, Effort.NORMAL, seen).groups for name in group.types}
    assert probed
    assert all("_exps" in name for name in probed)
    assert {choice.name for choice in model.choices} <= probed | set(seen)
    with pytest.raises(UsageError, match="the checkpoint that the model was converted from"):
        fisher(model, asked, None, tmp_path, silent)  # type: ignore[arg-type]


def test_the_same_pass_gives_the_same_figures(converted: GgufHeader, chunks: Chunks, tmp_path: Path) -> None:
    tensors = [tensor for tensor in converted.tensors if tensor.name.startswith("blk.0.attn")]
    choices = choices_of([tensor for tensor in tensors if len(tensor.shape) > 1], pool_named("usual", 4.5), {})
    weights: Mapping[str, Floats] = {choice.name: np.ones(256, np.float32) for choice in choices}
    first, second = (
        fisher_sensitivities(DEMO, [converted], choices, weights, chunks, library(), tmp_path) for _ in range(2)
    )
    assert first == second


def test_the_checkpoint_of_another_model_is_refused(tmp_path: Path, chunks: Chunks) -> None:
    header = read_header(random_models.write(tmp_path / "m.gguf"))
    tensors = [tensor for tensor in header.tensors if len(tensor.shape) > 1]
    choices = choices_of(tensors, pool_named("usual", 4.5), {})
    with pytest.raises(CheckpointError, match="holds none of this model's matrices"):
        fisher_sensitivities(DEMO, [header], choices, {}, chunks, library(), tmp_path)
