"""Every architecture once more, with rows that are multiples of 256: such as K-quants can take.

A recipe here is another one whose widths are enlarged; what it varies beside them stays.
"""

import importlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from recipes import deepseek, qwen
from recipes._recipe import Recipe, Shapes

WIDTHS: Mapping[str, int] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim"), 256),
    **dict.fromkeys(("intermediate_size", "intermediate_size_mlp", "hidden_dim", "d_ff"), 512),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 256),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim"), 256),
    **dict.fromkeys(("mamba_d_ssm", "mamba_dt_rank", "hidden_size_per_layer_input"), 256),
    **dict.fromkeys(("head_dim", "d_kv", "kv_channels", "v_head_dim", "query_pre_attn_scalar"), 64),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 64),
    "ffn_hidden_size": 512,
    "global_head_dim": 128,
    "mamba_d_head": 32,
    "n_inner": 1024,
    "qk_rope_head_dim": 32,
}

EXPERTS_OF_256 = {"intermediate_size": 256}
RANK_OF_256 = {"time_step_rank": 256}
CHANGES: Mapping[str, dict[str, Any]] = {
    "afmoe:afmoe": {},
    "apertus:apertus": {},
    "arcee:arcee": {},
    "baichuan:baichuan": {},
    "bert:bert": {},
    "bert:distilbert": {"n_layers": 2},
    "bert:roberta": {},
    "bloom:bloom": {"n_layer": 2},
    "codeshell:codeshell": {},
    "cohere:cohere": {},
    "cohere:cohere2": {},
    "cohere_moe:cohere2moe": EXPERTS_OF_256,
    "deepseek:deepseek-v2": {},
    "deepseek:deepseek-v3": {},
    "deepseek:glm4moelite": {},
    "dots1:dots1": {},
    "ernie:ernie": {},
    "ernie_moe:ernie-moe": {},
    "eurobert:eurobert": {"num_attention_heads": 2},
    "exaone:exaone": {},
    "exaone:exaone4": {"layer_types": ["full_attention"] * 2},
    "exaone_moe:exaone-moe": {},
    "falcon:falcon": {},
    "falcon_h1:falcon-h1": {"mamba_n_heads": 8},
    "gemma:gemma": {},
    "gemma:gemma2": {},
    "gemma:gemma3": {"num_hidden_layers": 6},
    "gemma:gemma4-per-layer": {},
    "gemma:gemma4-experts": {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]},
    "gemma:embeddinggemma": {},
    "glm:glm": {},
    "glm:glm4": {},
    "glm:chatglm": {},
    "glm_moe:glm4moe": {},
    "gpt2:gpt2": {"n_layer": 2},
    "gpt2:bigcode": {"n_layer": 2},
    "gpt_oss:gpt-oss": {},
    "gptneox:gptneox": {},
    "granite:granite": {},
    "granite:granite-swa": {},
    "granite_moe:granitemoe": EXPERTS_OF_256,
    "hrm_text:hrm-text": {},
    "hunyuan:hunyuan": {},
    "hy_v3:hy-v3": {},
    "internlm:internlm2": {},
    "jais2:jais2": {},
    "jamba:jamba": {"mamba_dt_rank": 256, "num_hidden_layers": 4},
    "lfm2:lfm2": {},
    "lfm2_moe:lfm2moe": {},
    "llama:llama": {},
    "llama:mixtral": EXPERTS_OF_256,
    "llama4:llama4": EXPERTS_OF_256,
    "mamba:mamba": RANK_OF_256,
    "mamba:falcon-mamba": RANK_OF_256,
    "mamba:mamba2": {"num_heads": 8},
    "minicpm:minicpm": {},
    "minicpm:minicpm3": {},
    "minimax:minimax-m2": {**EXPERTS_OF_256, "head_dim": 32, "num_attention_heads": 8},
    "mistral:ministral3": {},
    "modernbert:modernbert": {},
    "mpt:mpt": {"n_layers": 2},
    "nemotron:nemotron": {},
    "olmo:olmo": {},
    "olmo:olmo2": {},
    "olmoe:olmoe": EXPERTS_OF_256,
    "orion:orion": {},
    "phi:phi2": {"intermediate_size": 1024},
    "phi:phi3": {},
    "qwen:qwen2": {},
    "qwen:qwen3": {},
    "qwen:qwen2-vl": {"rope_parameters": {**qwen.MROPE, "mrope_section": [8, 12, 12]}},
    "qwen:qwen3-vl": {"rope_parameters": {**qwen.INTERLEAVED, "mrope_section": [12, 10, 10]}},
    "qwen_delta:qwen3next": {},
    "qwen_delta:qwen35": {},
    "qwen_delta:qwen35moe": {},
    "qwen_moe:qwen2moe": {},
    "qwen_moe:qwen3moe": {},
    "qwen_moe:qwen3vlmoe": {},
    "seed_oss:seed-oss": {},
    "smollm3:smollm3": {},
    "stablelm:stablelm": {},
    "starcoder2:starcoder2": {},
    "t5:t5-encoder": {"num_layers": 2},
    "t5:t5": {"num_layers": 2},
    "xverse:xverse": {},
    "xverse:pangu-embedded": {},
    "youtu:youtu": {},
}


def widened(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    if "text_config" in config:
        text, vision = widened(config["text_config"], changes), config["vision_config"]
        # what comes out of the tower is as wide as the text model
        side = "out_hidden_size" if "out_hidden_size" in vision else "hidden_size"
        return {**config, "text_config": text, "vision_config": {**vision, side: 256}}
    wide = {key: WIDTHS[key] if key in WIDTHS and value else value for key, value in config.items()}
    fewer = {"num_hidden_layers": 2} if wide.get("num_hidden_layers") == 3 else {}
    return {**wide, **fewer, **changes}


def widened_shapes(shapes: Shapes) -> Shapes:
    """Enlarge what a recipe writes out itself: those recipes all have the same sizes."""
    lengths = {32: 128, 64: 256, 96: 512, 128: 512, 192: 768, 256: 1024}
    gate_and_up = {**lengths, 192: 1024}
    return {
        name: tuple((gate_and_up if "dense_h_to_4h" in name else lengths).get(length, length) for length in shape)
        for name, shape in shapes.items()
    }


def one(module: str, name: str, changes: Mapping[str, Any]) -> Recipe:
    recipe: Recipe = importlib.import_module(f"recipes.{module}").RECIPES[name]
    if recipe.shapes is None:
        return replace(recipe, config=widened(recipe.config, changes))
    layers = {key: recipe.config[key] for key in ("num_hidden_layers", "num_layers") if key in recipe.config}
    return replace(recipe, config=widened(recipe.config, layers), shapes=widened_shapes(recipe.shapes))


FIRST_DEEPSEEK = deepseek.first(hidden_size=256, intermediate_size=512, moe_intermediate_size=256)
RECIPES = {
    **{f"{key.split(':')[1]}-256": one(*key.split(":"), changes) for key, changes in CHANGES.items()},
    "deepseek-v1-256": Recipe("DeepseekForCausalLM", **FIRST_DEEPSEEK),
}
