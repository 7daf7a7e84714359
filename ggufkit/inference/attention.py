"""How attention is computed where the options leave that open.

llama.cpp's own choice on a CPU is the fused kernel. It reads the keys and values of all past tokens once for every head
and one by one, so that a long context makes each token slow: a Llama of a billion weights in Q4_K_M on two cores, with
2048 tokens in the context, writes 11 tokens/s with it and 17 without (`llama-bench -fa 0,1 -d 2048`). Without it, what
is computed for a prompt grows with the context; in pieces of 128 tokens, or 64, that takes no more memory than the
fused kernel in pieces of 512.

Chat, generate, serve, the default that `tune` starts from, and the estimates of `plan` all ask here.
"""

from dataclasses import dataclass

from ggufkit.gguf_file.reader import GgufHeader
from ggufkit.inference.options import CacheType, EngineOptions, FlashAttention

LONG_CONTEXT = 1024  # tokens; below, the fused kernel reads prompts faster and writes no slower
_MICRO_BATCH, _SMALLER = 128, 64
_MOST_FOR_SCORES = 64 << 20  # bytes of float32: each head's of every token computed at once with every token before it
PLAIN_TYPES = {CacheType.F32, CacheType.F16, CacheType.BF16}


@dataclass(frozen=True, slots=True)
class Attention:
    """What llama.cpp is told: auto, on or off, and how many tokens it computes at once."""

    flash: str
    micro_batch_size: int


def attention(options: EngineOptions, header: GgufHeader, context_size: int, *, on_cpu: bool) -> Attention:
    """Choose for sequences that have a context of so many tokens each. What the options say themselves stays as it is.

    Models whose keys and values are one compressed latent (DeepSeek's) are left to llama.cpp, and so are those without
    attention, and whatever a GPU or another machine computes.
    """
    architecture = header.metadata.get("general.architecture")
    heads = _heads(header)
    if (
        options.flash_attention is not FlashAttention.AUTO
        or not on_cpu
        or context_size <= LONG_CONTEXT
        or not heads
        or options.cache_type_v not in PLAIN_TYPES
        or f"{architecture}.attention.kv_lora_rank" in header.metadata
    ):
        return Attention(options.flash_attention.value, options.micro_batch_size)
    if options.micro_batch_size != EngineOptions().micro_batch_size:
        return Attention("off", options.micro_batch_size)
    fits = fits_unfused(header, context_size, _MICRO_BATCH)
    return Attention("off", _MICRO_BATCH if fits else _SMALLER)


def fits_unfused(header: GgufHeader, context_size: int, micro_batch_size: int) -> bool:
    """Tell whether the scores of so many tokens at once take little memory where attention is not fused."""
    return _heads(header) * context_size * micro_batch_size * 4 <= _MOST_FOR_SCORES


def _heads(header: GgufHeader) -> int:
    """Return how many heads look at once: in models whose layers differ, those of the layer that has the most."""
    heads = header.metadata.get(f"{header.metadata.get('general.architecture')}.attention.head_count", 0)
    counts = heads if isinstance(heads, list) else [heads]
    return max((count for count in counts if isinstance(count, int)), default=0)
