"""Gemma 1, 2, 3 and EmbeddingGemma: norms stored minus one, embeddings scaled up; from 2 on four norms a block."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    COMMON_DEFAULTS,
    DECODER,
    EMBEDDINGS,
    GATED_MLP,
    LAYERS,
    require,
    require_activation,
)
from ggufkit.architectures._gemma import GEMMA3_DEFAULTS, slides, unusual_pattern
from ggufkit.architectures._ops import AddOne
from ggufkit.architectures._rope import rope
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, TensorTable, Vocabulary, blocks, maybe, to
from ggufkit.errors import CheckpointError

PLUS_ONE = AddOne()
TWO_NORMS: TensorTable = {
    "model.norm": to("output_norm", op=PLUS_ONE),
    **blocks(
        LAYERS,
        {
            "input_layernorm": to("attn_norm", op=PLUS_ONE),
            "post_attention_layernorm": to("ffn_norm", op=PLUS_ONE),
        },
    ),
}
FOUR_NORMS = blocks(
    LAYERS,
    {
        "post_attention_layernorm": to("post_attention_norm", op=PLUS_ONE),
        "pre_feedforward_layernorm": to("ffn_norm", op=PLUS_ONE),
        "post_feedforward_layernorm": to("post_ffw_norm", op=PLUS_ONE),
    },
)
HEAD_NORMS = blocks(
    LAYERS,
    {"self_attn.q_norm": to("attn_q_norm", op=PLUS_ONE), "self_attn.k_norm": to("attn_k_norm", op=PLUS_ONE)},
)
TIED_OUTPUT: TensorTable = {"lm_head": None}  # some quantizers save it; llama.cpp reads token_embd

# llama.cpp's default is written by nobody; another base must not be lost.
OTHER_BASE: MetadataTable = {
    "rope.freq_base": lambda config: base if (base := rope(config)["rope_theta"]) != 10000.0 else None,
}
SOFTCAPS: MetadataTable = {
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
PATTERN2: MetadataTable = {"attention.sliding_window_pattern": unusual_pattern(2)}
WINDOWS3: MetadataTable = {
    "attention.sliding_window": lambda c: c["sliding_window"] if any(c["slides"]) else None,
    "attention.sliding_window_pattern": unusual_pattern(6),
    "rope.freq_base_swa": lambda config: rope(config, "sliding_attention")["rope_theta"],
    "final_logit_softcapping": maybe("final_logit_softcapping"),
}
EMBEDDING_WINDOWS: MetadataTable = {"attention.sliding_window": "sliding_window"}

_LAYERS_27B = {"gemma2": 46, "gemma3": 62}  # the sizes whose attention llama.cpp scales by hidden_size / heads


def gemma1_remarks(config: Config) -> Iterable[str]:
    """Refuse another activation. Released configs say "gelu" and mean the one that all implementations compute."""
    require_activation(config, "gelu_pytorch_tanh", "gelu", keys=("hidden_act", "hidden_activation"))
    return ()


def _check(config: Config, name: str) -> None:
    require_activation(config, "gelu_pytorch_tanh", keys=("hidden_activation",))
    config.get("hidden_act")  # released configs carry both; transformers computes the other
    is_27b = config["num_hidden_layers"] == _LAYERS_27B.get(name)
    scaled_by = config["hidden_size"] // config["num_attention_heads"] if is_27b else config["head_dim"]
    if config["query_pre_attn_scalar"] != scaled_by:
        raise CheckpointError(
            f"config.json: query_pre_attn_scalar is {config['query_pre_attn_scalar']}; llama.cpp scales attention by "
            f"{scaled_by:g} for a model of {config['num_hidden_layers']} layers",
            hint="no GGUF key expresses this; the model's answers would be wrong",
        )


def gemma2_remarks(config: Config) -> Iterable[str]:
    """Refuse an activation or an attention scale that llama.cpp does not compute."""
    _check(config, "gemma2")
    require(config, "llama.cpp's Gemma 2 looks back only", use_bidirectional_attention=False)
    return ()


def gemma3_remarks(config: Config) -> Iterable[str]:
    """Refuse also what only EmbeddingGemma does, and softcaps of attention, which Gemma 3 gave up."""
    _check(config, "gemma3")
    require(config, "llama.cpp's Gemma 3 looks back only", use_bidirectional_attention=False)
    require(config, "llama.cpp's Gemma 3 has none", attn_logit_softcapping=0)
    return ()


def embedding_remarks(config: Config) -> Iterable[str]:
    """Refuse a text model without head that is no EmbeddingGemma: one that looks back only."""
    _check(config, "gemma-embedding")
    if config.get("use_bidirectional_attention") is not True:
        raise CheckpointError("config.json: llama.cpp takes Gemma3TextModel for EmbeddingGemma, which looks both ways")
    return ()


GEMMA = ArchSpec(
    name="gemma",
    hf_architectures=("GemmaForCausalLM",),
    metadata=(DECODER, OTHER_BASE),
    tensors=(EMBEDDINGS, ATTENTION, GATED_MLP, TWO_NORMS, TIED_OUTPUT),
    ropes=(),
    defaults={
        "gemma": {
            **COMMON_DEFAULTS,
            "max_position_embeddings": 8192,
            "num_key_value_heads": 16,
            "head_dim": 256,
            "tie_word_embeddings": True,
        }
    },
    vocabulary=Vocabulary.GEMMA,
    remarks=gemma1_remarks,
)
GEMMA2 = ArchSpec(
    name="gemma2",
    hf_architectures=("Gemma2ForCausalLM",),
    metadata=(DECODER, SOFTCAPS, EMBEDDING_WINDOWS, OTHER_BASE, PATTERN2),
    tensors=(EMBEDDINGS, ATTENTION, GATED_MLP, TWO_NORMS, FOUR_NORMS, TIED_OUTPUT),
    sizes={"slides": lambda c: slides(c, 2)},
    ropes=(),
    defaults={
        "gemma2": {
            **COMMON_DEFAULTS,
            "max_position_embeddings": 8192,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "sliding_window": 4096,
            "query_pre_attn_scalar": 256,
            "tie_word_embeddings": True,
        }
    },
    vocabulary=Vocabulary.GEMMA,
    remarks=gemma2_remarks,
)
GEMMA3 = ArchSpec(
    name="gemma3",
    hf_architectures=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    metadata=(DECODER, WINDOWS3),
    tensors=(EMBEDDINGS, ATTENTION, HEAD_NORMS, GATED_MLP, TWO_NORMS, FOUR_NORMS),
    sizes={"slides": lambda c: slides(c, 6)},
    ropes=("linear", "per-layer"),
    defaults={"gemma3_text": GEMMA3_DEFAULTS},
    vocabulary=Vocabulary.GEMMA,
    remarks=gemma3_remarks,
)
GEMMA_EMBEDDING = ArchSpec(
    name="gemma-embedding",
    hf_architectures=("Gemma3TextModel",),
    metadata=(DECODER, WINDOWS3, EMBEDDING_WINDOWS),
    tensors=(EMBEDDINGS, ATTENTION, HEAD_NORMS, GATED_MLP, TWO_NORMS, FOUR_NORMS),
    sizes={"slides": lambda c: slides(c, 6)},
    ropes=("linear", "per-layer"),
    defaults={"gemma3_text": GEMMA3_DEFAULTS},
    vocabulary=Vocabulary.GEMMA,
    remarks=embedding_remarks,
)

SPECS = (GEMMA, GEMMA2, GEMMA3, GEMMA_EMBEDDING)
