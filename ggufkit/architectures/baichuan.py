"""Baichuan: Llama with q, k and v in one tensor; the 7B ropes, the 13B has ALiBi."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import DECODER, EMBEDDINGS, GATED_MLP, LAYERS, PRE_NORMS, require_activation
from ggufkit.architectures._decoders import SQUARE
from ggufkit.architectures._head_ops import UndoRopePermute
from ggufkit.architectures._ops import Copy, Each, Split, Then
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, blocks, maybe, to

QKV = Then(
    Split("heads*head", "kv_heads*head", "kv_heads*head"),
    Each(UndoRopePermute("heads"), UndoRopePermute("kv_heads"), Copy()),
)
ATTENTION = blocks(
    LAYERS,
    {"self_attn.W_pack": to("attn_q", "attn_k", "attn_v", op=QKV), "self_attn.o_proj": "attn_output"},
)
SIZES: MetadataTable = {
    "attention.head_count_kv": maybe("num_key_value_heads"),
    "rope.freq_base": maybe("rope_theta"),  # silent, as released: 10000
    "tensor_data_layout": lambda _: "Meta AI original pth",
    "rope.dimension_count": "head",
}
_LAYERS_7B, _LAYERS_13B = 32, 40  # by which llama.cpp tells rope from ALiBi (src/models/baichuan.cpp)
_VOCABULARY_OF_2 = 125696


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation; warn of sizes that llama.cpp leaves without positions, and of Baichuan 2's output."""
    require_activation(config, "silu")
    if (layers := config["layers"]) not in (_LAYERS_7B, _LAYERS_13B):
        yield (
            f"llama.cpp ropes a Baichuan of {_LAYERS_7B} layers and gives one of {_LAYERS_13B} ALiBi; "
            f"with {layers} it knows no positions, and its answers differ from the original's"
        )
    if config["vocab"] == _VOCABULARY_OF_2:
        yield "Baichuan 2 normalizes the rows of its output as it runs; llama.cpp does not: normalize lm_head first"


BAICHUAN = ArchSpec(
    name="baichuan",
    hf_architectures=("BaichuanForCausalLM", "BaiChuanForCausalLM"),
    metadata=(DECODER, SIZES),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, GATED_MLP),
    needs_output=True,
    defaults={
        "baichuan": {
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
        }
    },
    spellings={"max_position_embeddings": ("model_max_length",)},
    ropes=(),
    shapes=SQUARE,
    remarks=remarks,
)

SPECS = (BAICHUAN,)
