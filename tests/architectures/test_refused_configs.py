"""Configs that llama.cpp's graph cannot follow are refused before anything is written, saying what and why."""

import json
from pathlib import Path
from typing import Any

import pytest
from recipes import RECIPES, checkpoint, golden, write

from ggufkit.architectures import spec_for
from ggufkit.checkpoints import open_checkpoint
from ggufkit.conversion import OutputType
from ggufkit.conversion.metadata import model_metadata
from ggufkit.conversion.plan import make_plan
from ggufkit.errors import CheckpointError


def plan_of(folder: Path) -> Any:
    with open_checkpoint(folder) as opened:
        spec = spec_for(opened.config.architecture, opened.config.model_type)
        return make_plan(opened, spec, OutputType.F16, description={})


# Recipe, what its config.json says instead, and what the refusal must name.
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("gpt2", {"activation_function": "relu"}, "relu"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ("bigcode", {"scale_attn_weights": False}, "scale_attn_weights"),
    ("gptneox", {"attention_bias": False}, "attention_bias"),
    ("falcon", {"alibi": True}, "alibi"),
    ("falcon", {"bias": True}, "bias"),
    ("falcon", {"parallel_attn": False}, "parallel_attn"),
    ("bloom", {"apply_residual_connection_post_layernorm": True}, "apply_residual_connection_post_layernorm"),
    ("mpt", {"attn_config": {"softmax_scale": 0.2}}, "softmax_scale"),
    ("mpt", {"attn_config": {"qk_ln": True}}, "qk_ln"),
    ("mpt", {"logit_scale": 0.5}, "logit_scale"),
    ("mpt", {"norm_type": "rmsnorm"}, "rmsnorm"),
    (
        "olmo3",
        {"rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}},
        "base",
    ),
    ("cohere", {"tie_word_embeddings": False}, "tie_word_embeddings"),
    ("cohere", {"use_qk_norm": True}, "64 layers"),
    ("cohere2", {"rotary_pct": 0.5}, "partial_rotary_factor"),
    ("cohere2", {"layer_types": ["full_attention"] * 5}, "sliding attention"),
    ("granite-swa", {"layer_types": ["full_attention"] * 5}, "sliding attention"),
    ("gemma4", {"layer_types": ["full_attention"] * 4}, "sliding window"),
    ("granite-swa", {"layer_rope_theta": [1e4, 1e4, 0, 2e4, 1e4]}, "layer_rope_theta"),
    ("chatglm", {"rmsnorm": False}, "rmsnorm"),
    ("exaone4", {"sliding_window": 4096}, "with 3 layers"),
    ("exaone4-32b", {"sliding_window": None}, "with 64 layers"),
    ("nemotron", {"hidden_act": "silu"}, "silu"),
    ("smollm3", {"no_rope_layers": [1, 0, 1, 0, 1]}, "no_rope_layers"),
    ("apertus", {"rope_parameters": None}, "rope"),
    ("hunyuan-stretched", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "alpha"),
    ("minicpm3", {"scale_depth": 2.0}, "scale_depth"),
    ("youtu", {"rope_interleave": False}, "rope_interleave"),
    ("youtu", {"num_hidden_layers": 26}, "26 layers"),
    ("internlm2", {"bias": True}, "bias"),
    (
        "olmo",
        {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4, "beta_fast": 16}},
        "beta_fast",
    ),
]


@pytest.mark.parametrize(("name", "changes", "named"), REFUSED, ids=lambda value: str(value)[:60])
def test_is_refused(name: str, changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    known = golden(name)
    folder = write(tmp_path / "checkpoint", {**known["config"], **changes}, known["shapes"], RECIPES[name])
    with pytest.raises(CheckpointError, match=named):
        plan_of(folder)


@pytest.mark.parametrize("name", ["olmo", "arcee", "hunyuan", "ernie-untied", "cohere"])
def test_a_bias_that_llama_cpp_does_not_add_is_refused(name: str, tmp_path: Path) -> None:
    known = golden(name)
    shapes = {**known["shapes"], "model.layers.0.self_attn.o_proj.bias": (64,)}
    folder = write(tmp_path / "checkpoint", known["config"], shapes, RECIPES[name])
    with pytest.raises(CheckpointError, match=r"o_proj\.bias.*llama\.cpp's"):
        plan_of(folder)


def test_a_window_that_no_layer_has_is_not_written(tmp_path: Path) -> None:
    """llama.cpp aborts on an OLMo 3 with a window and no sliding layer; it is an OLMo 2."""
    folder = checkpoint("olmo3", tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "layer_types": ["full_attention"] * 4}))
    plan = plan_of(folder)
    written = model_metadata(plan.spec, plan.config)
    assert [key for key in written if "sliding" in key or "swa" in key] == []


class TestNumbersKeptInTensors:
    """Apertus trains the numbers of its activation; GGUF keeps them as metadata."""

    def test_they_must_all_be_there(self, tmp_path: Path) -> None:
        known = golden("apertus")
        shapes = {name: shape for name, shape in known["shapes"].items() if "layers.1.mlp.act_fn.beta" not in name}
        folder = write(tmp_path / "checkpoint", known["config"], shapes, RECIPES["apertus"])
        with pytest.raises(CheckpointError, match=r"no tensor 'model\.layers\.1\.mlp\.act_fn\.beta'"):
            plan_of(folder)

    def test_they_must_be_single(self, tmp_path: Path) -> None:
        known = golden("apertus")
        shapes = {**known["shapes"], "model.layers.0.mlp.act_fn.eps": (2,)}
        folder = write(tmp_path / "checkpoint", known["config"], shapes, RECIPES["apertus"])
        with pytest.raises(CheckpointError, match="expected one number"):
            plan_of(folder)
