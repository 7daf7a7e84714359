"""Gemma 1 and 2: norms stored minus one, embeddings scaled up; from 2 on four norms a block, windows and softcaps."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    COMMON_DEFAULTS,
    DECODER,
    EMBEDDINGS,
    GATED_MLP,
    require,
    require_activation,
)
from ggufkit.architectures._gemma import FOUR_NORMS, TWO_NORMS, check_gemma, slides, unusual_pattern
from ggufkit.architectures._rope import rope
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, TensorTable, Vocabulary

TIED_OUTPUT: TensorTable = {"lm_head": None}  # some quantizers save it; llama.cpp reads token_embd
# llama.cpp's default is written by nobody; another base must not be lost.
OTHER_BASE: MetadataTable = {
    "rope.freq_base": lambda config: base if (base := rope(config)["rope_theta"]) != 10000.0 else None,
}
WINDOWS: MetadataTable = {
    # llama.cpp always caps: where the model does not, by so much that nothing changes
    "attn_logit_softcapping": lambda c: c.get("attn_logit_softcapping") or 1e9,
    "final_logit_softcapping": lambda c: c.get("final_logit_softcapping") or 1e9,
    "attention.sliding_window": "sliding_window",
    "attention.sliding_window_pattern": unusual_pattern(2),
}


def gemma1_remarks(config: Config) -> Iterable[str]:
    """Refuse another activation. Released configs say "gelu" and mean the one that all implementations compute."""
    require_activation(config, "gelu_pytorch_tanh", "gelu", keys=("hidden_act", "hidden_activation"))
    return ()


def gemma2_remarks(config: Config) -> Iterable[str]:
    """Refuse an activation or an attention scale that llama.cpp does not compute."""
    check_gemma(config, "gemma2")
    require(config, "llama.cpp's Gemma 2 looks back only", use_bidirectional_attention=False)
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
    vocabulary=Vocabulary.GEMMA_1,
    remarks=gemma1_remarks,
)
GEMMA2 = ArchSpec(
    name="gemma2",
    hf_architectures=("Gemma2ForCausalLM",),
    metadata=(DECODER, WINDOWS, OTHER_BASE),
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

SPECS = (GEMMA, GEMMA2)
