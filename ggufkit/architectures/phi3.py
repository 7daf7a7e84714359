"""Phi 3 and 4: q, k and v in one tensor, gate and up in another.

With a long context frequencies are divided by two lists of factors ("longrope"), one of them for short texts.
"""

from collections.abc import Iterable

from ggufkit.architectures._blocks import COMMON_DEFAULTS, DECODER, EMBEDDINGS, LAYERS, PRE_NORMS, require_activation
from ggufkit.architectures._rope import longrope_attention, longrope_factors, rope, rotary_dimensions
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, blocks

TENSORS = blocks(
    LAYERS,
    {
        "self_attn.qkv_proj": "attn_qkv",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    },
)


def original_context(config: Config) -> int:
    """Read how many tokens the short factors are for; without factors, how many the model was trained with."""
    given = rope(config).get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    return int(given or config["max_position_embeddings"])


def attention_factor(config: Config) -> float | None:
    """Work out what longrope multiplies queries and keys by; llama.cpp's converter writes it also where it is 1."""
    return longrope_attention(config) or 1.0 if rope(config)["rope_type"] == "longrope" else None


SIZES: MetadataTable = {
    "attention.key_length": lambda _: None,
    "attention.value_length": lambda _: None,
    "attention.sliding_window": lambda c: c.get("sliding_window") or 0,  # 0 tells Phi 4 from the others
    "rope.dimension_count": rotary_dimensions,
    "rope.scaling.type": lambda _: None,
    "rope.scaling.original_context_length": original_context,
    "rope.scaling.attn_factor": attention_factor,
}


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation; warn of a sliding window, which llama.cpp switched off for this architecture."""
    require_activation(config, "silu")
    window, context = config.get("sliding_window"), config["max_position_embeddings"]
    if window and window < context:
        yield (
            f"llama.cpp does not apply this model's sliding_window of {window}: "
            f"beyond {window} tokens its answers differ from the original's"
        )


PHI3 = ArchSpec(
    name="phi3",
    hf_architectures=("Phi3ForCausalLM",),
    metadata=(DECODER, SIZES),
    tensors=(EMBEDDINGS, PRE_NORMS, TENSORS),
    shapes={"ffn_up": "2*ff hidden"},
    ropes=("longrope", "partial"),
    defaults={
        "phi3": {
            **COMMON_DEFAULTS,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096,
        }
    },
    extra_tensors=longrope_factors,
    remarks=remarks,
)


SPECS = (PHI3,)
