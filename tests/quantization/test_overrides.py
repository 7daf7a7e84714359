"""Types of single tensors: what else they change is told or prevented, and none is given in vain."""

import dataclasses
from pathlib import Path

import pytest
import tiny_gguf

from ggufkit.errors import UsageError, VerificationError
from ggufkit.gguf_file.reader import read_header
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.quantization.overrides import Shift
from ggufkit.quantization.plan import Fallback, QuantizationPlan, QuantizeOptions, plan
from ggufkit.quantization.quantize import quantize
from ggufkit.quantization.types import quantization_type

pytestmark = pytest.mark.engine

Q4 = quantization_type("Q4_K_M")
F16, Q5, Q6, Q8 = TensorType.F16, TensorType.Q5_K, TensorType.Q6_K, TensorType.Q8_0


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of eight blocks, of which Q4_K_M gives some more bits than others."""
    return tiny_gguf.write_model(tmp_path_factory.mktemp("deep") / "deep-F16.gguf", blocks=8, feed_forward=256)


def types(it: QuantizationPlan) -> dict[str, TensorType]:
    return {tensor.name: tensor.to for tensor in it.tensors}


def test_a_tensor_of_its_own_moves_the_recipe_and_that_is_told(deep: Path, tmp_path: Path):
    options = QuantizeOptions(tensor_types=(("blk.0.ffn_down", Q8),))
    without, moved = plan(deep, Q4), plan(deep, Q4, options)
    changed = {name for name, kind in types(moved).items() if kind is not types(without)[name]}
    assert changed - {"blk.0.ffn_down.weight"}  # the trap is there
    assert {shift.tensor for shift in moved.shifted} == changed - {"blk.0.ffn_down.weight"}
    first = moved.shifted[0]
    assert first == Shift(first.tensor, types(without)[first.tensor], types(moved)[first.tensor])
    assert without.shifted == ()
    by_hand = tiny_gguf.by_hand(deep, "Q4_K_M", tmp_path / "hand.gguf", "--tensor-type", "blk.0.ffn_down=q8_0")
    quantize(deep, Q4, tmp_path / "ours.gguf", options)
    assert (tmp_path / "ours.gguf").read_bytes() == by_hand
    with pytest.raises(VerificationError, match="--strict"):
        quantize(deep, Q4, tmp_path / "strict.gguf", options, strict=True)
    assert not (tmp_path / "strict.gguf").exists()


@pytest.mark.parametrize(
    "options",
    [
        QuantizeOptions(tensor_types=(("blk.0.ffn_down", Q8),), pin=True),
        QuantizeOptions(keep=(("model.layers.0.mlp.down_proj", Q8),)),
    ],
    ids=["pin", "keep"],
)
@pytest.mark.parametrize("kind", ["Q4_K_M", "Q5_K_M", "Q3_K_M", "Q2_K", "IQ4_XS"])
def test_pinned_nothing_else_changes(kind: str, options: QuantizeOptions, deep: Path, tmp_path: Path):
    recipe = types(plan(deep, quantization_type(kind)))
    planned = plan(deep, quantization_type(kind), options)
    assert types(planned) == recipe | {"blk.0.ffn_down.weight": Q8}
    assert planned.shifted == planned.fallbacks == ()
    quantize(deep, kind, tmp_path / "out.gguf", options)
    assert {t.name: t.type for t in read_header(tmp_path / "out.gguf").tensors} == types(planned)
    assert planned.bytes_after == (tmp_path / "out.gguf").stat().st_size


def test_keep_goes_on_top_of_tensor_types_and_keeps_fallbacks_known(models: Path):
    both = QuantizeOptions(tensor_types=(("attn_k", Q8),), keep=(("lm_head", None), ("norm", F16)))
    planned = plan(models / "odd-F16.gguf", Q4, both)
    assert types(planned)["blk.1.attn_k.weight"] is Q8
    assert types(planned)["output.weight"] is F16  # as it was
    assert {line.tensor for line in planned.fallbacks} == {"blk.0.ffn_down.weight", "blk.1.ffn_down.weight"}
    assert any("stay F32: output_norm.weight" in note for note in planned.notes)


def test_types_of_tensors_that_would_be_in_vain_are_refused(models: Path):
    source = models / "even-F16.gguf"
    cases = {
        "an earlier pattern matches": {"tensor_types": (("attn_", Q8), ("attn_q", Q6))},
        "--output-tensor-type Q8_0 decides about output.weight": {
            "tensor_types": (("^output", Q6),),
            "output_tensor_type": Q8,
        },
        "--token-embedding-type Q8_0 decides about token_embd.weight": {
            "tensor_types": (("token_embd", Q6),),
            "token_embedding_type": Q8,
        },
        "--keep wants output.weight as F16, but --leave-output-tensor decides": {
            "keep": (("lm_head", F16),),
            "leave_output_tensor": True,
        },
    }
    for message, options in cases.items():
        with pytest.raises(UsageError, match=message):
            plan(source, Q4, dataclasses.replace(QuantizeOptions(), **options))
    with pytest.raises(UsageError, match="--keep has no effect together with F16"):
        plan(source, quantization_type("F16"), QuantizeOptions(keep=(("lm_head", Q8),)))
    # A pattern that another option overrules in part is none in vain.
    partly = plan(source, Q4, QuantizeOptions(tensor_types=(("weight", Q8),), output_tensor_type=Q6))
    assert types(partly)["output.weight"] is Q6
    assert types(partly)["blk.0.attn_q.weight"] is Q8


def test_a_type_that_does_not_fit_falls_back_and_that_is_told(models: Path):
    planned = plan(models / "odd-F16.gguf", Q4, QuantizeOptions(keep=(("down_proj", Q6),)))
    assert types(planned)["blk.0.ffn_down.weight"] is Q8
    assert Fallback("blk.0.ffn_down.weight", 288, Q6, Q8) in planned.fallbacks
