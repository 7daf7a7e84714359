"""How attention is computed where the options leave that open.

llama.cpp's own choice on a CPU is the fused kernel. It reads the keys and values of all past tokens once for every head
and one by one, so that a long context makes each token slow: a Llama of a billion weights in Q4_K_M on two cores, with
2048 tokens in the context, writes 11 tokens/s with it and 17 without (`llama-bench -fa 0,1 -d 2048`). Without it, what
is computed for a prompt grows with the context; in pieces of 128 tokens, or 64, that takes no more memory than the
fused kernel in pieces of 512.
"""

from dataclasses import dataclass

from ggufkit.gguf_file.reader import GgufHeader
from ggufkit.inference.options import CacheType, EngineOptions, FlashAttention

_LONG_CONTEXT = 1024  # tokens; below, the fused kernel reads prompts faster and writes no slower
_MICRO_BATCH, _SMALLER = 128, 64
_MOST_FOR_SCORES = 64 << 20  # bytes of float32: each head's of every token computed at once with every token before it
_PLAIN = {CacheType.F32, CacheType.F16, CacheType.BF16}


@dataclass(frozen=True, slots=True)
class Attention:
    """What llama.cpp is told: auto, on or off, and how many tokens it computes at once."""

    flash: str
    micro_batch_size: int


def attention(options: EngineOptions, header: GgufHeader, context_size: int, *, on_cpu: bool) -> Attention:
    """Choose for one sequence in a context of so many tokens. What the options say themselves stays as it is.

    Models whose keys and values are one compressed latent (DeepSeek's) are left to llama.cpp, and so is whatever a
    GPU or another machine computes.
    """
    architecture = header.metadata.get("general.architecture")
    if (
        options.flash_attention is not FlashAttention.AUTO
        or not on_cpu
        or context_size <= _LONG_CONTEXT
        or options.cache_type_v not in _PLAIN
        or f"{architecture}.attention.kv_lora_rank" in header.metadata
    ):
        return Attention(options.flash_attention.value, options.micro_batch_size)
    if options.micro_batch_size != EngineOptions().micro_batch_size:
        return Attention("off", options.micro_batch_size)
    heads = header.metadata.get(f"{architecture}.attention.head_count", 0)
    scores = (heads if isinstance(heads, int) else 0) * context_size * _MICRO_BATCH * 4
    return Attention("off", _MICRO_BATCH if scores <= _MOST_FOR_SCORES else _SMALLER)
