"""Youtu-LLM: DeepSeek's latent attention without experts; llama.cpp runs it as a DeepSeek of dense blocks only."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    DECODER,
    EMBEDDINGS,
    GATED_MLP,
    PRE_NORMS,
    inner_norms_differ,
    require,
    require_activation,
)
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, Vocabulary
from ggufkit.architectures.deepseek import MLA, MLA_SIZES
from ggufkit.errors import CheckpointError

DENSE: MetadataTable = {
    "vocab_size": "vocab",
    "leading_dense_block_count": "layers",
    "expert_feed_forward_length": "ff",  # llama.cpp wants to read it, and uses it nowhere
    "expert_shared_count": lambda _: 0,  # the same
}


def remarks(config: Config) -> Iterable[str]:
    """Refuse what llama.cpp does not load or compute: another activation, another rope, no query LoRA."""
    require_activation(config, "silu")
    require(config, "llama.cpp rotates neighbouring pairs here", rope_interleave=True)
    lite = config["layers"] in (26, 27) or (config["layers"], config["vocab"]) == (48, 128256)
    if (config.get("q_lora_rank") is None) != lite:
        raise CheckpointError(
            f"config.json: q_lora_rank is {config.get('q_lora_rank')} with {config['layers']} layers; "
            "llama.cpp takes a model of 26, 27 or 48 layers for one without query LoRA"
        )
    yield from inner_norms_differ(config, "latent queries and keys")


YOUTU = ArchSpec(
    name="deepseek2",
    hf_architectures=("YoutuForCausalLM",),
    metadata=(DECODER, MLA_SIZES, DENSE),
    tensors=(EMBEDDINGS, PRE_NORMS, MLA, GATED_MLP),
    either=(("attn_q", "attn_q_b"),),
    shapes={"attn_q": "heads*nope+heads*rope hidden", "attn_output": "hidden heads*v_head_dim"},
    defaults={
        "youtu": {
            "vocab_size": 128256,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 32,
            "num_attention_heads": 16,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "kv_lora_rank": 512,
            "q_lora_rank": 1536,
            "qk_rope_head_dim": 64,
            "qk_nope_head_dim": 128,
            "v_head_dim": 128,
            "tie_word_embeddings": True,
        }
    },
    drops_tied_output=True,
    vocabulary=Vocabulary.BYTE_LEVEL,
    remarks=remarks,
)

SPECS = (YOUTU,)
