"""A plan refuses what it does not understand, and says where and what."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import handmade_checkpoint
import hub_checkpoints
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader

from ggufkit.conversion import OutputType, open_plan
from ggufkit.errors import CheckpointError, UnmappedTensorError, UnsupportedArchitectureError

Weights = dict[str, np.ndarray]


def plan_of(folder: Path, weights: Weights | None = None, outtype: OutputType = OutputType.F16, **config: Any) -> Any:
    with open_plan(handmade_checkpoint.write(folder, weights, **config), outtype) as plan:
        return plan


def without(name: str) -> Callable[[Weights], None]:
    return lambda weights: weights.__delitem__(name)


def adding(name: str, shape: tuple[int, ...]) -> Callable[[Weights], None]:
    return lambda weights: weights.update({name: np.zeros(shape, np.float32)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("model.layers.1.mlp.up_proj.weight"), r"no tensor of the checkpoint becomes blk\.1\.ffn_up\.weight"),
        (without("model.norm.weight"), r"becomes output_norm\.weight"),
        (without("lm_head.weight"), "no lm_head"),
        (adding("model.layers.0.self_attn.q_proj.lora_A", (2, 2)), r"no rule for tensor .*lora_A"),
        (adding("vision.patch", (2, 2)), r"no rule for tensor 'vision\.patch'"),
        (adding("model.layers.2.input_layernorm.weight", (32,)), "beyond config.json's 2 layers"),
        (
            adding("lm_head.weight", (100, 32)),
            r"output\.weight of shape \(100, 32\), but config\.json says \(258, 32\)",
        ),
        (adding("model.layers.0.self_attn.q_proj.weight", (30, 32)), r"'model\.layers\.0\.self_attn\.q_proj\.weight'"),
        (adding("model.norm.bias", (0,)), r"tensor 'model\.norm\.bias' is empty"),
        (
            adding("model.norm.bias", (32,)),
            r"'model\.norm\.bias' becomes output_norm\.bias, which llama\.cpp's llama has not",
        ),
        (adding("model.norm.weight", ()), r"'model\.norm\.weight' becomes output_norm\.weight of shape \(\)"),
        (adding("model.layers.0.mlp.up_proj.weight", (1, 1, 1, 64, 32)), r"'model\.layers\.0\.mlp\.up_proj\.weight'"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path: Path, change: Callable[[Weights], None], message: str) -> None:
    weights = handmade_checkpoint.tensors()
    change(weights)
    with pytest.raises(CheckpointError, match=message):
        plan_of(tmp_path, weights)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"rope_scaling": {"rope_type": "made-up", "factor": 2}}, "rope type 'made-up'"),
        ({"rope_scaling": [1]}, "expected an object"),
        ({"vocab_size": 300}, "tokenizer|config.json says"),
        ({"num_hidden_layers": 3}, r"blk\.2\."),
        ({"rope_scaling": {"type": "linear"}}, "linear rope without a factor"),
        ({"rope_scaling": {"type": "llama3", "factor": "8"}}, "factor of the rope settings is '8'"),
        ({"rope_scaling": {"type": "llama3", "factor": 0}}, "expected a positive number"),
        ({"rope_scaling": {"type": ["yarn"]}}, r"rope type \['yarn'\]"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "settings of their own for each type of layer"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"num_local_experts": 4, "num_experts_per_tok": 5}, "num_experts_per_tok is 5, but there are 4 experts"),
        ({"num_local_experts": 4}, r"becomes blk\.0\.ffn_\w+_exps\.weight"),
        ({"rms_norm_eps": "tiny"}, "expected a positive number"),
        ({"num_attention_heads": 8, "head_dim": None}, "shape"),
    ],
)
def test_configs_that_do_not_fit_are_explained(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        plan_of(tmp_path, **config)


def test_silence_on_key_and_value_heads_means_one_for_each_query_head(tmp_path: Path) -> None:
    """As in the first LLaMA's config.json."""
    weights = handmade_checkpoint.tensors()
    for block in range(2):
        for part in ("k", "v"):
            weights[f"model.layers.{block}.self_attn.{part}_proj.weight"] = np.zeros((32, 32), np.float32)
    shapes = {
        tensor.name: tensor.shape for tensor in plan_of(tmp_path, weights, num_key_value_heads=None).layout.tensors
    }
    assert shapes["blk.0.attn_k.weight"] == (32, 32)


def test_an_unmapped_tensor_is_not_dropped(tmp_path: Path) -> None:
    weights = {**handmade_checkpoint.tensors(), "model.layers.0.mlp.gate_proj.scales": np.zeros(2, np.float32)}
    with pytest.raises(UnmappedTensorError):
        plan_of(tmp_path, weights)


def test_integers_are_no_weights(tmp_path: Path) -> None:
    weights = {**handmade_checkpoint.tensors(), "model.norm.weight": np.zeros(32, np.int8)}
    with pytest.raises(CheckpointError, match="of type I8"):
        plan_of(tmp_path, weights)


def test_unknown_architecture_names_its_neighbours(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedArchitectureError, match="MistralForCausalLM"):
        plan_of(tmp_path, architectures=["MistrallForCausalLM"])


def test_what_llama_cpp_will_not_do_is_warned_of(tmp_path: Path) -> None:
    [warning] = plan_of(tmp_path, sliding_window=16).warnings
    assert "sliding_window of 16" in warning
    [warning] = plan_of(tmp_path, logits_scaling=0.5).warnings
    assert "logits_scaling = 0.5" in warning


def test_the_layout_is_what_the_file_will_be(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, outtype=OutputType.Q8_0)
    types = {tensor.name: tensor.type for tensor in plan.layout.tensors}
    assert types["blk.0.attn_q.weight"] is GGMLQuantizationType.Q8_0
    assert types["blk.0.attn_norm.weight"] is GGMLQuantizationType.F32
    end = len(plan.layout.header)
    for tensor in plan.layout.tensors:
        assert tensor.offset == end
        end += (tensor.size + 31) // 32 * 32
    assert plan.layout.size == end


def test_a_row_that_does_not_divide_falls_back_to_f16(tmp_path: Path) -> None:
    weights = handmade_checkpoint.tensors()
    for block in range(2):
        prefix = f"model.layers.{block}.mlp"
        weights |= {f"{prefix}.{part}_proj.weight": np.zeros((72, 32), np.float32) for part in ("gate", "up")}
        weights[f"{prefix}.down_proj.weight"] = np.zeros((32, 72), np.float32)
    plan = plan_of(tmp_path, weights, OutputType.Q8_0, intermediate_size=72)
    types = {tensor.name: tensor.type.name for tensor in plan.layout.tensors}
    assert (types["blk.0.ffn_down.weight"], types["blk.0.ffn_up.weight"]) == ("F16", "Q8_0")


def test_auto_takes_the_checkpoint_s_own_type(tmp_path: Path) -> None:
    assert plan_of(tmp_path, outtype=OutputType.AUTO).output_type is OutputType.F16


@pytest.mark.parametrize("count", [3, 5])
def test_experts_are_counted(tmp_path: Path, count: int) -> None:
    """Four are announced; a missing one, the last included, and one too many are found."""
    weights = handmade_checkpoint.tensors()
    for block in range(2):
        for part in ("gate", "up", "down"):
            del weights[f"model.layers.{block}.mlp.{part}_proj.weight"]
        moe = f"model.layers.{block}.block_sparse_moe"
        weights[f"{moe}.gate.weight"] = np.zeros((4, 32), np.float32)
        for expert in range(count):
            weights[f"{moe}.experts.{expert}.w1.weight"] = np.zeros((64, 32), np.float32)
            weights[f"{moe}.experts.{expert}.w2.weight"] = np.zeros((32, 64), np.float32)
            weights[f"{moe}.experts.{expert}.w3.weight"] = np.zeros((64, 32), np.float32)
    config = {"architectures": ["MixtralForCausalLM"], "num_local_experts": 4, "num_experts_per_tok": 2}
    with pytest.raises(CheckpointError, match=r"no expert \[3\]" if count == 3 else "more than 4 experts"):
        plan_of(tmp_path, weights, **config)


def released(folder: Path, name: str, **changes: Any) -> Any:
    """Plan a checkpoint as the hub has it, with changes to its config.json; None removes a key."""
    hub_checkpoints.make(name, folder)
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    removed = {key for key, value in changes.items() if value is None}
    path.write_text(json.dumps({key: value for key, value in config.items() if key not in removed}))
    with open_plan(folder, OutputType.F16) as plan:
        return plan


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("deepseek-v3", {"moe_layer_freq": 2}, "moe_layer_freq is 2"),
        ("deepseek-v3", {"n_group": 3}, "do not make 3 groups"),
        ("deepseek-v3", {"first_k_dense_replace": 2}, r"becomes blk\.1\.ffn_\w+\.weight"),
        ("deepseek-v3", {"first_k_dense_replace": 0}, r"becomes blk\.0\.ffn_\w+_exps\.weight"),
        ("deepseek-v3", {"scoring_func": "tanh"}, "unknown scoring_func 'tanh'"),
        ("deepseek-v3", {"n_shared_experts": 2}, "_shexp"),
        ("deepseek-v3", {"kv_lora_rank": 16}, "kv_a_"),
        ("deepseek-v2-lite", {"num_hidden_layers": 26}, "beyond config.json's 26 layers"),
        ("gemma-2-2b", {"query_pre_attn_scalar": 16}, "query_pre_attn_scalar is 16"),
        ("qwen2.5-0.5b", {"head_dim": 32}, "config.json says"),
    ],
)
def test_what_llama_cpp_would_not_load_is_refused(
    tmp_path: Path, name: str, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        released(tmp_path, name, **config)


def test_a_null_softcap_is_not_taken_for_the_default(tmp_path: Path) -> None:
    hub_checkpoints.make("gemma-2-2b", tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(
        text.replace('"final_logit_softcapping": 30.0', '"final_logit_softcapping": null')
    )
    with open_plan(tmp_path, OutputType.F16) as plan:
        (tmp_path / "header.gguf").write_bytes(plan.layout.header)
    with (tmp_path / "header.gguf").open("r+b") as file:
        file.truncate(plan.layout.size)
    # llama.cpp takes an absent key for 30, and always divides by it: a cap that no logit comes near is none.
    assert GGUFReader(tmp_path / "header.gguf").fields["gemma2.final_logit_softcapping"].contents() >= 1e9


def test_a_v3_that_transformers_saved_is_still_routed_by_the_sigmoid(tmp_path: Path) -> None:
    """transformers writes no scoring_func, and llama.cpp would take the softmax."""
    plan = released(tmp_path, "deepseek-v3", scoring_func=None)
    (tmp_path / "header.gguf").write_bytes(plan.layout.header)
    with (tmp_path / "header.gguf").open("r+b") as file:
        file.truncate(plan.layout.size)
    assert GGUFReader(tmp_path / "header.gguf").fields["deepseek2.expert_gating_func"].contents() == 2


def test_groups_that_llama_cpp_ranks_otherwise_are_warned_of(tmp_path: Path) -> None:
    warnings = released(tmp_path, "deepseek-v3", topk_method="group_limited_greedy").warnings
    assert [warning for warning in warnings if "group_limited_greedy" in warning]
