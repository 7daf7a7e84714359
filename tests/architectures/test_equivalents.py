"""Models that transformers does not build compute what one of its models does, under other names: so their logits too.

Each checkpoint is rewritten here, by hand, as the other model; libllama runs ours, transformers the other.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recipes import checkpoint, golden
from tokenless import convert_and_run

pytestmark = [pytest.mark.oracle, pytest.mark.engine]

TOKENS, LIMIT, HEAD = 40, 5e-3, 16
Tensors = Mapping[str, Any]


def renamed(tensors: Tensors, *pairs: tuple[str, str]) -> dict[str, Any]:
    """Replace patterns in names, one after the other; what ends up nameless is dropped."""
    result = {}
    for name, tensor in tensors.items():
        for pattern, replacement in pairs:
            name = re.sub(pattern, replacement, name)
        if name:
            result[name] = tensor
    return result


def split(tensors: Tensors, part: str, cut: Callable[[Any], Mapping[str, Any]]) -> dict[str, Any]:
    """Replace every tensor that has `part` in its name by several, which have other words there."""
    result = {}
    for name, tensor in tensors.items():
        pieces = {name.replace(part, word): piece for word, piece in cut(tensor).items()} if part in name else {}
        result |= pieces or {name: tensor}
    return result


def sizes(config: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    keys = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads"
    keys += " max_position_embeddings rms_norm_eps rope_theta tie_word_embeddings"
    return {key: config[key] for key in keys.split() if config.get(key) is not None} | changes


def chatglm(config: Mapping[str, Any], tensors: Tensors) -> tuple[str, dict[str, Any], Tensors]:
    heads, groups = 4, config["multi_query_group_num"]

    def cut(qkv: Any) -> Mapping[str, Any]:
        q, k, v = qkv.split([heads * HEAD, groups * HEAD, groups * HEAD])
        return {"self_attn.q_proj": q, "self_attn.k_proj": k, "self_attn.v_proj": v}

    tensors = renamed(
        split(tensors, "self_attention.query_key_value", cut),
        (r"transformer\.encoder\.layers", "model.layers"),
        (r"self_attention\.dense", "self_attn.o_proj"),
        (r"dense_h_to_4h", "gate_up_proj"),
        (r"dense_4h_to_h", "down_proj"),
        (r"transformer\.encoder\.final_layernorm", "model.norm"),
        (r"transformer\.embedding\.word_embeddings", "model.embed_tokens"),
        (r"transformer\.output_layer", "lm_head"),
        (r".*inv_freq", ""),
    )
    rope = {"rope_type": "default", "rope_theta": 1e4 * config["rope_ratio"], "partial_rotary_factor": 0.5}
    changes = {
        "num_hidden_layers": 2,
        "num_key_value_heads": groups,
        "head_dim": HEAD,
        "intermediate_size": config["ffn_hidden_size"],
        "rms_norm_eps": config["layernorm_epsilon"],
        "attention_bias": config["add_qkv_bias"],
        "rope_parameters": rope,
        "pad_token_id": None,
    }
    return "GlmForCausalLM", sizes(config, **changes), tensors


def internlm2(config: Mapping[str, Any], tensors: Tensors) -> tuple[str, dict[str, Any], Tensors]:
    def cut(qkv: Any) -> Mapping[str, Any]:
        grouped = qkv.reshape(config["num_key_value_heads"], -1, HEAD, qkv.shape[-1])
        parts = {"q_proj": grouped[:, :-2], "k_proj": grouped[:, -2], "v_proj": grouped[:, -1]}
        return {f"self_attn.{word}": part.reshape(-1, qkv.shape[-1]).clone() for word, part in parts.items()}

    tensors = renamed(
        split(tensors, "attention.wqkv", cut),
        (r"tok_embeddings", "embed_tokens"),
        (r"attention\.wo", "self_attn.o_proj"),
        (r"attention_norm", "input_layernorm"),
        (r"ffn_norm", "post_attention_layernorm"),
        (r"feed_forward\.w1", "mlp.gate_proj"),
        (r"feed_forward\.w2", "mlp.down_proj"),
        (r"feed_forward\.w3", "mlp.up_proj"),
        (r"^output", "lm_head"),
    )
    return "LlamaForCausalLM", sizes(config), tensors


def baichuan(config: Mapping[str, Any], tensors: Tensors) -> tuple[str, dict[str, Any], Tensors]:
    words = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    cut = split(tensors, "self_attn.W_pack", lambda qkv: dict(zip(words, qkv.chunk(3), strict=True)))
    return "LlamaForCausalLM", sizes(config, rope_theta=1e4), cut


def minicpm(config: Mapping[str, Any], tensors: Tensors) -> tuple[str, dict[str, Any], Tensors]:
    scales = {
        "embedding_multiplier": config["scale_emb"],
        "residual_multiplier": config["scale_depth"] / config["num_hidden_layers"] ** 0.5,
        "logits_scaling": config["hidden_size"] / config["dim_model_base"],
        "attention_multiplier": HEAD**-0.5,
        "tie_word_embeddings": True,
    }
    return "GraniteForCausalLM", sizes(config, **scales), tensors


def exaone(config: Mapping[str, Any], tensors: Tensors) -> tuple[str, dict[str, Any], Tensors]:
    tensors = renamed(
        tensors,
        (r"transformer\.h\.", "model.layers."),
        (r"attn\.attention\.out_proj", "self_attn.o_proj"),
        (r"attn\.attention", "self_attn"),
        (r"ln_1", "input_layernorm"),
        (r"ln_2", "post_attention_layernorm"),
        (r"c_fc_0", "gate_proj"),
        (r"c_fc_1", "up_proj"),
        (r"c_proj", "down_proj"),
        (r"transformer\.wte", "model.embed_tokens"),
        (r"transformer\.ln_f", "model.norm"),
    )
    rope = {**config.get("rope_scaling", {"rope_type": "default"}), "rope_theta": config["rope_theta"]}
    changes = {"num_hidden_layers": 2, "rms_norm_eps": config["layer_norm_epsilon"], "rope_parameters": rope}
    return "LlamaForCausalLM", sizes(config, **changes), tensors


def llama(config: Mapping[str, Any], tensors: Tensors) -> tuple[str, dict[str, Any], Tensors]:
    return "LlamaForCausalLM", sizes(config, attention_bias=config.get("bias", False)), tensors


EQUIVALENTS = {
    "chatglm": chatglm,
    "chatglm-every-head": chatglm,
    "internlm2": internlm2,
    "internlm2-dynamic": internlm2,  # the text is shorter than where dynamic scaling begins
    "baichuan-7b": baichuan,
    "minicpm": minicpm,
    "exaone": exaone,
    "exaone-untied": exaone,
    "xverse": llama,
    "pangu-embedded": llama,
}


@pytest.mark.parametrize("name", EQUIVALENTS)
def test_logits_agree(name: str, tmp_path: Path, figure: Callable[[str, str], None]) -> None:
    import torch
    import transformers
    from safetensors.torch import load_file

    torch.set_num_threads(1)
    folder = checkpoint(name, tmp_path / "checkpoint")
    stored = {key: tensor.float() for key, tensor in load_file(folder / "model.safetensors").items()}
    class_name, settings, tensors = EQUIVALENTS[name](golden(name)["config"], stored)
    model_class = getattr(transformers, class_name)
    model = model_class(model_class.config_class(**settings, attn_implementation="eager")).float().eval()
    loaded = model.load_state_dict(dict(tensors), strict=False)
    model.tie_weights()
    assert not loaded.unexpected_keys
    assert set(loaded.missing_keys) <= {"lm_head.weight"}
    prompt = np.random.default_rng(1).integers(3, settings["vocab_size"], TOKENS).tolist()

    with torch.inference_mode():
        theirs = model(input_ids=torch.tensor([prompt])).logits[0].numpy()
    ours = convert_and_run(folder, prompt)

    distance = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
    same_top = float((ours.argmax(-1) == theirs.argmax(-1)).mean())
    figure(f"logits of {name} as {class_name}", f"relative L2 {distance:.1e}, same top-1 at {same_top:.0%}")
    assert distance < LIMIT
    assert same_top > 0.97
