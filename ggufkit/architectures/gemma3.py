"""Gemma 3 and EmbeddingGemma: Gemma 2 with norms of q and k in place of softcaps, and two bases of rope."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import ATTENTION, DECODER, EMBEDDINGS, GATED_MLP, LAYERS, require
from ggufkit.architectures._gemma import (
    FOUR_NORMS,
    GEMMA3_DEFAULTS,
    PLUS_ONE,
    TWO_NORMS,
    check_gemma,
    check_sliding_rope,
    slides,
    unusual_pattern,
)
from ggufkit.architectures._rope import rope
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, TensorTable, Vocabulary, blocks, maybe, to
from ggufkit.errors import CheckpointError

HEAD_NORMS = blocks(
    LAYERS,
    {"self_attn.q_norm": to("attn_q_norm", op=PLUS_ONE), "self_attn.k_norm": to("attn_k_norm", op=PLUS_ONE)},
)
WINDOWS: MetadataTable = {
    "attention.sliding_window": lambda c: c["sliding_window"] if any(c["slides"]) else None,
    "attention.sliding_window_pattern": unusual_pattern(6),
    "rope.freq_base_swa": lambda config: rope(config, "sliding_attention")["rope_theta"],
    "final_logit_softcapping": maybe("final_logit_softcapping"),
}
HEADLESS: TensorTable = {"lm_head": None}
EMBEDDING_WINDOWS: MetadataTable = {"attention.sliding_window": "sliding_window"}


def gemma3_remarks(config: Config) -> Iterable[str]:
    """Refuse also what only EmbeddingGemma does, and softcaps of attention, which Gemma 3 gave up."""
    check_gemma(config, "gemma3")
    check_sliding_rope(config)
    require(config, "llama.cpp's Gemma 3 looks back only", use_bidirectional_attention=False)
    require(config, "llama.cpp's Gemma 3 has none", attn_logit_softcapping=0)
    return ()


def embedding_remarks(config: Config) -> Iterable[str]:
    """Refuse a text model without head that is no EmbeddingGemma: one that looks back only."""
    check_gemma(config, "gemma-embedding")
    if config.get("use_bidirectional_attention") is not True:
        raise CheckpointError("config.json: llama.cpp takes Gemma3TextModel for EmbeddingGemma, which looks both ways")
    return ()


GEMMA3 = ArchSpec(
    name="gemma3",
    hf_architectures=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    metadata=(DECODER, WINDOWS),
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
    metadata=(DECODER, WINDOWS, EMBEDDING_WINDOWS),
    tensors=(EMBEDDINGS, ATTENTION, HEAD_NORMS, GATED_MLP, TWO_NORMS, FOUR_NORMS, HEADLESS),
    sizes={"slides": lambda c: slides(c, 6)},
    ropes=("linear", "per-layer"),
    defaults={"gemma3_text": GEMMA3_DEFAULTS},
    vocabulary=Vocabulary.GEMMA,
    remarks=embedding_remarks,
)

SPECS = (GEMMA3, GEMMA_EMBEDDING)
