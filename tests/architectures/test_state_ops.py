"""Ops of state-space models and encoders: shapes promised and kept, factors, rows left out, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recipes import RECIPES, golden, write

from ggufkit.architectures import spec_for
from ggufkit.architectures._ops import Op
from ggufkit.architectures._state_ops import DecayOfHeads, Scale, ScaleParts, SkipRows
from ggufkit.checkpoints import open_checkpoint
from ggufkit.conversion import OutputType
from ggufkit.conversion.plan import make_plan
from ggufkit.errors import CheckpointError, UnmappedTensorError

CONFIG = {"hidden": 3, "ff": 2, "twice": 2.0, "thrice": 3, "parts": [0.5, 2.0], "pad": 1}
OPS: list[tuple[Op, tuple[int, ...]]] = [
    (DecayOfHeads(), (4,)),
    (Scale("twice", "thrice"), (4, 3)),
    (ScaleParts("twice", "parts", ("hidden", "ff")), (5, 4)),
    (ScaleParts("twice", "parts", ("hidden", "ff")), (5,)),
    (SkipRows("pad+1"), (7, 3)),
]


@pytest.mark.parametrize(("op", "shape"), OPS)
def test_shapes_are_kept(op: Op, shape: tuple[int, ...]) -> None:
    source = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    assert [result.shape for result in op.apply([source], CONFIG)] == op.shapes([shape], CONFIG)


def test_decays_are_rounded_once() -> None:
    logarithms = np.linspace(-3, 3, 1001, dtype=np.float32)
    (decays,) = DecayOfHeads().apply([logarithms], {})
    exact = [-np.exp(np.longdouble(value)) for value in logarithms]
    assert decays.dtype == np.float32
    assert decays[:, 0].tolist() == [float(np.float32(value)) for value in exact]


def test_factors_are_applied_one_after_the_other() -> None:
    ones = np.ones((5, 2), np.float32)
    assert Scale("twice", "thrice").apply([ones], CONFIG)[0].tolist() == [[6.0, 6.0]] * 5
    (scaled,) = ScaleParts("twice", "parts", ("hidden", "ff")).apply([ones], CONFIG)
    assert scaled[:, 0].tolist() == [1.0, 1.0, 1.0, 4.0, 4.0]


def test_the_first_rows_are_left_out() -> None:
    assert SkipRows("pad+1").apply([np.arange(4)], CONFIG)[0].tolist() == [2, 3]


@pytest.mark.parametrize("value", [1e308, -1e308, 10**400, float("nan"), float("inf"), "1", True])
def test_a_factor_that_float32_does_not_hold_is_refused(value: object) -> None:
    with pytest.raises(CheckpointError, match=r"config.json: ssm_in is .*, expected a number that float32 holds"):
        Scale("ssm_in").apply([np.ones(2, np.float32)], {"ssm_in": value})


@pytest.mark.parametrize(
    ("op", "shape", "message"),
    [
        (ScaleParts("twice", "parts", ("hidden", "ff")), (6, 4), "3 . 2 rows"),
        (ScaleParts("twice", "parts", ("hidden", "ff", "ff")), (7, 4), "expected 3 numbers"),
        (Scale("parts"), (2,), "expected a number"),
        (SkipRows("pad+1"), (2, 3), "no rows after the first 2"),
    ],
)
def test_wrong_sources_are_refused(op: Op, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        op.shapes([shape], CONFIG)


def plan(folder: Path) -> None:
    with open_checkpoint(folder) as opened:
        spec = spec_for(opened.config.architecture, opened.config.model_type)
        make_plan(opened, spec, OutputType.F16, description={})


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("mamba", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ("mamba", {"time_step_rank": 5}, "config.json says"),
        ("mamba2", {"time_step_limit": [0.001, 0.1]}, "does not limit the time step"),
        ("mamba2", {"n_groups": 3}, "config.json says|does not fit"),
        ("falcon-h1", {"attention_bias": True}, "adds no bias"),
        ("falcon-h1", {"mamba_norm_before_gate": True}, "gates before it norms"),
        ("falcon-h1", {"ssm_multipliers": [1.0, 2.0]}, "expected 5 numbers"),
        ("jamba", {"mamba_expand": 3}, "no Jamba but with 2"),
        ("jamba", {"attn_layer_offset": 4}, "no such period"),
        ("jamba", {"attn_layer_offset": 0}, "no tensor of the checkpoint becomes"),
        ("jamba", {"num_experts_per_tok": 9}, "there are 4 experts"),
        ("lfm2", {"conv_L_cache": 1}, "wants at least 2"),
        ("lfm2", {"layer_types": ["conv"]}, "for each of 5"),
        ("lfm2", {"layer_types": ["conv"] * 5}, "only with layers of both kinds"),
        ("jamba", {"attn_layer_period": 1, "attn_layer_offset": 0}, "all 6 layers attention ones"),
        ("modernbert", {"layer_types": ["sliding_attention"] * 6}, "no layer has full attention"),
        ("bert", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ("bert", {"is_decoder": True}, "as an encoder"),
        ("bert", {"position_embedding_type": "relative_key"}, "adds positions"),
        ("bert", {"sentence_transformers_pooling": "max"}, "pools by mean, cls, lasttoken"),
        ("bert-labels", {"id2label": {"0": "a", "2": "b"}}, "expected names for 0, 1, 2"),
        ("roberta", {"pad_token_id": 70}, "no rows after the first 71"),
        ("modernbert", {"classifier_activation": "relu"}, "classifier_activation is 'relu'"),
        ("modernbert", {"layer_types": ["full_attention"]}, "1 entries for 6 layers"),
        ("modernbert", {"norm_bias": True}, "no bias there"),
        ("eurobert", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope type 'yarn'"),
        ("t5-encoder", {"feed_forward_proj": "gated-silu"}, "'relu' or 'gated-gelu'"),
        ("t5-encoder", {"feed_forward_proj": "gated-gelu"}, "no tensor of the checkpoint becomes"),
        ("t5-encoder", {"relative_attention_max_distance": 64}, "has it at 128"),
        ("t5", {"num_decoder_layers": 4}, "the decoder has 4 layers"),
    ],
)
def test_what_llama_cpp_would_not_follow_is_refused(
    name: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    known = golden(name)
    folder = write(tmp_path, {**known["config"], **changes}, known["shapes"], RECIPES[name])
    with pytest.raises((CheckpointError, UnmappedTensorError), match=message):
        plan(folder)


@pytest.mark.parametrize(
    ("name", "extra", "shape"),
    [
        ("mamba", "backbone.layers.0.mixer.in_proj.bias", (256,)),
        ("falcon-h1", "model.layers.0.mamba.out_proj.bias", (64,)),
        ("lfm2", "model.layers.0.conv.conv.bias", (64,)),
        ("modernbert-labels", "head.dense.bias", (64,)),
        ("bert", "embeddings.more.weight", (64, 64)),
    ],
)
def test_tensors_that_llama_cpp_would_not_load_are_refused(
    name: str, extra: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    known = golden(name)
    folder = write(tmp_path, known["config"], {**known["shapes"], extra: shape}, RECIPES[name])
    with pytest.raises(UnmappedTensorError):
        plan(folder)
