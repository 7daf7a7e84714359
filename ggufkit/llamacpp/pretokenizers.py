"""The pre-tokenizers that the pinned libllama has for byte-level BPE, and which of its names mean the same.

From src/llama-vocab.cpp: the names and flags of llama_vocab::impl::load, the regular expressions of
llm_tokenizer_bpe. A test compares this table with that source.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pretokenizer:
    """Names that libllama treats alike.

    `cut` is the first name of all that cut text at the same places; the flags tell apart those of one cut:
    `ignore_merges`, a word that is a token stays whole whatever the merges; `cleans_spaces`, spaces before punctuation
    go at output; `adds_bos`, a text is opened with a token unless the file says otherwise.
    """

    names: tuple[str, ...]
    cut: str
    ignore_merges: bool = False
    cleans_spaces: bool = False
    adds_bos: bool = False


PRETOKENIZERS: tuple[Pretokenizer, ...] = (
    Pretokenizer(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"),
        "llama-bpe",
        ignore_merges=True,
        cleans_spaces=True,
        adds_bos=True,
    ),
    Pretokenizer(("dbrx", "smaug-bpe", "chatglm-bpe"), "llama-bpe", cleans_spaces=True),
    Pretokenizer(("glm4", "glm5"), "llama-bpe", ignore_merges=True, cleans_spaces=True),
    Pretokenizer(("qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "hunyuan", "grok-2", "solar-open"), "qwen2"),
    Pretokenizer(("stablelm2", "megrez"), "qwen2", cleans_spaces=True),
    Pretokenizer(("qwen35",), "qwen35"),
    Pretokenizer(("ufakzeka",), "ufakzeka"),
    Pretokenizer(("laguna",), "laguna"),
    Pretokenizer(
        (
            *("gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de", "a.x-4.0", "mellum"),
            *("modern-bert", "jina-v1-en", "jina-v2-code", "roberta-bpe", "exaone4", "mpt", "olmo", "jais"),
        ),
        "gpt-2",
        cleans_spaces=True,
    ),
    Pretokenizer(("trillion", "granite-docling"), "gpt-2"),
    Pretokenizer(("tekken",), "tekken", ignore_merges=True, adds_bos=True),
    Pretokenizer(("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"), "gpt-4o"),
    Pretokenizer(("granite-embed-multi-97m",), "granite-embed-multi-97m", ignore_merges=True),
    Pretokenizer(("tiny_aya", "cohere2moe"), "tiny_aya"),
    Pretokenizer(
        ("starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"), "starcoder", cleans_spaces=True
    ),
    Pretokenizer(("smollm", "command-r"), "starcoder"),
    Pretokenizer(("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"), "deepseek-v3"),
    Pretokenizer(("deepseek-llm",), "deepseek-llm"),
    Pretokenizer(("deepseek-coder",), "deepseek-coder"),
    Pretokenizer(("spark2_5",), "spark2_5"),
    Pretokenizer(("falcon",), "falcon", cleans_spaces=True),
    Pretokenizer(("bailingmoe", "bailingmoe2", "llada-moe"), "bailingmoe"),
    Pretokenizer(("seed-coder",), "seed-coder"),
    Pretokenizer(("minicpm5",), "minicpm5", ignore_merges=True, cleans_spaces=True),
    Pretokenizer(("youtu",), "youtu", ignore_merges=True),
    Pretokenizer(("jais-2",), "jais-2", cleans_spaces=True),
    Pretokenizer(("exaone-moe",), "exaone-moe", cleans_spaces=True),
    Pretokenizer(("afmoe",), "afmoe"),
    Pretokenizer(("superbpe",), "superbpe"),
    Pretokenizer(("kimi-k2",), "kimi-k2"),
    Pretokenizer(("chameleon",), "chameleon", adds_bos=True),
    Pretokenizer(("bloom", "gpt3-finnish"), "bloom", cleans_spaces=True),
    Pretokenizer(("poro-chat",), "bloom"),
    Pretokenizer(("viking",), "viking"),
    Pretokenizer(("default",), "default", cleans_spaces=True),
)

OVER_WHOLE_TEXTS = ("gemma4", "granite-embed-multi-311m", "sarvam-moe", "whitespace")
"""Names for vocabularies that are no byte-level ones: spaces are kept as signs, or dropped."""


def pretokenizer(name: str) -> Pretokenizer | None:
    """Return what a name stands for; None when libllama has no such name for byte-level BPE."""
    return next((entry for entry in PRETOKENIZERS if name in entry.names), None)


def all_names() -> list[str]:
    """List every name that `tokenizer.ggml.pre` may have."""
    return [name for entry in PRETOKENIZERS for name in entry.names] + list(OVER_WHOLE_TEXTS)
