"""Tiny random checkpoints of every architecture that a spec converts, saved by transformers itself.

Each recipe is small enough for a laptop's blink and odd enough to notice a mistake: grouped-query attention, a head
size that is not hidden / heads, norms that are not one, biases where the architecture has them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VOCABULARY = 384
_TEXT = "The quick brown fox jumps over the lazy dog. 0123456789 Ärger, Жук, 犬も歩く。 def f(x):\n    return x\n"
# Qwen 2's regex: llama.cpp's name for this pre-tokenizer is "qwen2".
_QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Recipe:
    """How to make one checkpoint: the transformers classes, their settings, and keys that released configs carry."""

    config_class: str
    settings: Mapping[str, Any]
    tokenizer: str = "byte-level-bpe"
    extra_config: Mapping[str, Any] = field(default_factory=dict)


def _common(**changes: Any) -> dict[str, Any]:
    return {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "vocab_size": VOCABULARY,
        "bos_token_id": 0,
        "eos_token_id": 1,
        **changes,
    }


_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
_MLA = {
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
}
_V2_ROUTING = {"topk_method": "greedy", "norm_topk_prob": False, "routed_scaling_factor": 1.0}
_DEEPSEEK_YARN = {**_YARN, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0}

RECIPES: dict[str, Recipe] = {
    "llama": Recipe("LlamaConfig", _common(rope_parameters=_LLAMA3_ROPE)),
    "llama-tied": Recipe("LlamaConfig", _common(tie_word_embeddings=True, head_dim=32)),
    "llama-biased": Recipe("LlamaConfig", _common(attention_bias=True, mlp_bias=True)),
    "llama-spm": Recipe("LlamaConfig", _common(), tokenizer="sentencepiece"),
    "mistral": Recipe("MistralConfig", _common(head_dim=32, sliding_window=None), tokenizer="sentencepiece"),
    "mixtral": Recipe("MixtralConfig", _common(num_local_experts=4, num_experts_per_tok=2, sliding_window=None)),
    "qwen2": Recipe("Qwen2Config", _common(use_sliding_window=False)),
    "qwen2-yarn": Recipe("Qwen2Config", _common(use_sliding_window=False, rope_parameters=_YARN)),
    "qwen3": Recipe("Qwen3Config", _common(head_dim=32, use_sliding_window=False)),
    "gemma2": Recipe(
        "Gemma2Config",
        _common(head_dim=32, query_pre_attn_scalar=32, sliding_window=8, pad_token_id=2),
        tokenizer="sentencepiece",
    ),
    "deepseek-v2": Recipe("DeepseekV2Config", _common(**_MLA, **_V2_ROUTING, q_lora_rank=24)),
    # llama.cpp takes a model without query LoRA for one of the Lite ones, by its 27 layers.
    "deepseek-v2-lite": Recipe(
        "DeepseekV2Config", _common(**_MLA, **_V2_ROUTING, q_lora_rank=None, num_hidden_layers=27)
    ),
    "deepseek-v3": Recipe(
        "DeepseekV3Config",
        _common(**_MLA, q_lora_rank=24, n_group=2, topk_group=1, norm_topk_prob=True, routed_scaling_factor=2.5),
        # transformers leaves these out, released configs carry them
        extra_config={"scoring_func": "sigmoid", "topk_method": "noaux_tc"},
    ),
    "deepseek-v3-yarn": Recipe(
        "DeepseekV3Config",
        _common(**_MLA, q_lora_rank=24, n_group=2, topk_group=1, rope_parameters=_DEEPSEEK_YARN),
        extra_config={"scoring_func": "sigmoid", "topk_method": "noaux_tc"},
    ),
}

# Whole conversions, tokenizer included; all other architectures are compared by their goldens, without one. Every
# output type of a bf16 checkpoint, as nearly all released ones are; of float32 and float16 what differs.
UPSTREAM_JOBS = [
    (name, dtype, outtype)
    for name in ("llama", "llama-spm", "mixtral", "qwen2", "gemma2", "deepseek-v3")
    for dtype, outtypes in (("bfloat16", ("f32", "f16", "bf16", "q8_0")), ("float32", ("f32", "f16", "bf16")))
    for outtype in outtypes
] + [("llama", "float16", outtype) for outtype in ("f32", "f16", "bf16", "q8_0")]


def make(name: str, folder: Path, dtype: str = "float32") -> Path:
    """Make the checkpoint of a recipe in `folder` and return it."""
    import torch
    import transformers

    recipe = RECIPES[name]
    torch.manual_seed(sum(name.encode()))
    config = getattr(transformers, recipe.config_class)(**recipe.settings)
    model = transformers.AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.dim() == 1:  # norms of one and biases of zero would hide mistakes
                parameter.add_(torch.randn_like(parameter) * 0.2)
            else:
                parameter.copy_(torch.randn_like(parameter) * (0.5 if "gate.weight" in parameter_name else 0.08))
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith("e_score_correction_bias"):
                buffer.copy_(torch.randn_like(buffer) * 0.05)
    model.save_pretrained(folder)
    write_tokenizer(recipe.tokenizer, folder)
    if recipe.extra_config:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **recipe.extra_config}))
    return folder


def write_tokenizer(kind: str, folder: Path) -> None:
    {"byte-level-bpe": _write_byte_level_bpe, "sentencepiece": _write_sentencepiece}[kind](folder)


def _write_byte_level_bpe(folder: Path) -> None:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN2_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>", "<|im_end|>", "<|im_start|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # Made-up words give the trainer enough pairs to reach the vocabulary's size.
    words = " ".join(f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "lmnrst")
    tokenizer.train_from_iterator([_TEXT, words] * 4, trainer)
    assert tokenizer.get_vocab_size() == VOCABULARY
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    settings["chat_template"] = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def train_sentencepiece(folder: Path, **options: Any) -> Path:
    """Train a tokenizer.model on made-up words."""
    import sentencepiece

    words = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "lmnrst"]
    corpus = [line for line in _TEXT.splitlines() if line] * 8 + [" ".join(words[i : i + 12]) for i in range(300)]
    settings = {"model_type": "bpe", "vocab_size": VOCABULARY, "byte_fallback": True, "remove_extra_whitespaces": False}
    ids = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "normalization_rule_name": "identity", "minloglevel": 2}
    with (folder / "tokenizer.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus), model_writer=file, **{**settings, **ids, **options}
        )
    return folder / "tokenizer.model"


def _write_sentencepiece(folder: Path) -> None:
    train_sentencepiece(folder)
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "LlamaTokenizer"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**settings, "add_bos_token": True, "add_eos_token": False})
    )
