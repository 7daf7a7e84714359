"""InternLM 2: Llama with q, k and v in one tensor, grouped by key head, under names of its own."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import DECODER, require, require_activation
from ggufkit.architectures._decoders import SQUARE
from ggufkit.architectures._head_ops import UndoRopePermute, UngroupQkv
from ggufkit.architectures._ops import Copy, Each, Then
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, TensorTable, Vocabulary, blocks, to

ENDS: TensorTable = {"model.tok_embeddings": "token_embd", "model.norm": "output_norm", "output": "output?"}
QKV = Then(UngroupQkv(), Each(UndoRopePermute("heads"), UndoRopePermute("kv_heads"), Copy()))
BLOCK = blocks(
    "model.layers",
    {
        "attention_norm": "attn_norm",
        "attention.wqkv": to("attn_q", "attn_k", "attn_v", op=QKV),
        "attention.wo": "attn_output",
        "ffn_norm": "ffn_norm",
        "feed_forward.w1": "ffn_gate",
        "feed_forward.w3": "ffn_up",
        "feed_forward.w2": "ffn_down",
    },
)


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation, and biases; dynamic scaling begins beyond the context."""
    require_activation(config, "silu")
    require(config, "llama.cpp's InternLM 2 has no biases", bias=False)
    return ()


INTERNLM2 = ArchSpec(
    name="internlm2",
    hf_architectures=("InternLM2ForCausalLM",),
    metadata=(DECODER,),
    tensors=(ENDS, BLOCK),
    needs_output=True,
    defaults={
        "internlm2": {
            "vocab_size": 103168,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
        }
    },
    ropes=("linear", "yarn", "dynamic"),
    shapes=SQUARE,
    vocabulary=Vocabulary.INTERNLM2,
    remarks=remarks,
)

SPECS = (INTERNLM2,)
