"""MiniCPM 1 and 4: Llama with scales on embeddings, residuals and logits."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    DECODER,
    EMBEDDINGS,
    GATED_MLP,
    PRE_NORMS,
    require,
    require_activation,
)
from ggufkit.architectures._decoders import PERMUTED_QK
from ggufkit.architectures._rope import longrope_attention, longrope_factors, stretched_context
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable

SCALES: MetadataTable = {
    "embedding_scale": lambda c: float(c["scale_emb"]),
    "residual_scale": lambda c: c["scale_depth"] / c["num_hidden_layers"] ** 0.5,
    "logit_scale": lambda c: c["hidden_size"] / c["dim_model_base"],
    "rope.scaling.attn_factor": longrope_attention,
    "rope.scaling.original_context_length": stretched_context,
}


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation, and experts."""
    require_activation(config, "silu")
    require(config, "llama.cpp's MiniCPM with experts is not what this converts", num_experts=0)
    return ()


MINICPM = ArchSpec(
    name="minicpm",
    hf_architectures=("MiniCPMForCausalLM",),
    metadata=(DECODER, SCALES),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, GATED_MLP, PERMUTED_QK),
    defaults={
        "minicpm": {
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "scale_emb": 1,
            "scale_depth": 1,
            "dim_model_base": 1,
            "tie_word_embeddings": True,
        }
    },
    ropes=("linear", "longrope"),
    extra_tensors=longrope_factors,
    remarks=remarks,
)

SPECS = (MINICPM,)
