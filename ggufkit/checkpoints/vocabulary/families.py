"""The habits of families: what differs between checkpoints that have the same kind of tokenizer.

A habit that says which token plays a role is held as the token's text: ids differ between vocabularies, and an id
taken for the end of a turn by mistake would end generation at an ordinary word.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class VocabularyStyle(StrEnum):
    """Families by their habits; the values are what an architecture's spec holds."""

    AUTO = "auto"  # tokenizer.model if there is one, else what tokenizer.json turns out to be
    LLAMA = "llama"  # the same, with add_prefix_space from tokenizer_config.json, and CodeLlama's and Granite's ways
    GEMMA = "gemma"  # SentencePiece only, never with a space in front
    GEMMA_1 = "gemma-1"  # the same; a turn ends with <end_of_turn>
    GEMMA_4 = "gemma-4"  # merges over the whole text, as a tokenizer model of its own
    BYTE_LEVEL = "byte-level"  # tokenizer.json only (DeepSeek)
    BERT = "bert"  # with segment embeddings: Bert, DistilBert, Roberta, XLM-Roberta
    MODERN_BERT = "modern-bert"
    EURO_BERT = "euro-bert"
    T5 = "t5"
    CHATGLM = "chatglm"
    GLM = "glm"
    GLM_4 = "glm-4"
    ERNIE = "ernie"
    INTERNLM2 = "internlm2"
    MAMBA = "mamba"
    MAMBA_2 = "mamba-2"
    NEMOTRON = "nemotron"
    PHI = "phi"  # Phi 1 and 2


@dataclass(frozen=True, slots=True)
class Habits:
    """What a family does; the defaults are what most do.

    `only` restricts the kind of vocabulary by llama.cpp's name of its algorithm.
    `fallback_roles` gives the text of a role's token where the checkpoint's files name none; `roles` wins over them.
    `adds` says which tokens are added where neither the post-processor nor tokenizer_config.json tells.
    `visible` are tokens that are no control tokens, whatever the files say. `aliases` names pre-tokenizers as the
    family has them: they cut alike, but under its names llama.cpp takes no token for the first one by itself.
    `row_multiple` is what the number of rows is rounded up to. `segments`: the model has segment embeddings.
    """

    only: str | None = None
    space_prefix: bool | None = None
    reads_add_prefix_space: bool = False
    fallback_roles: Mapping[str, str] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    adds: Mapping[str, bool] = field(default_factory=dict)
    row_multiple: int = 1
    segments: bool = False
    encoder: bool = False
    visible: frozenset[str] = frozenset()
    aliases: Mapping[str, str] = field(default_factory=dict)


# Control tokens of Gemma 4 that a chat parser must see in the text (conversion/gemma.py, set_vocab).
_GEMMA_4_VISIBLE = frozenset(
    {"<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>'}
)
_GLM = {"dbrx": "chatglm-bpe", "llama-bpe": "glm4"}
_END, _USER, _OBSERVATION = "<|endoftext|>", "<|user|>", "<|observation|>"

# The habits are those of llama.cpp's converter: set_vocab of the family's class in its folder conversion/.
HABITS: Mapping[VocabularyStyle, Habits] = {
    VocabularyStyle.AUTO: Habits(),
    VocabularyStyle.LLAMA: Habits(reads_add_prefix_space=True),
    VocabularyStyle.GEMMA: Habits(only="llama", space_prefix=False),
    VocabularyStyle.GEMMA_1: Habits(only="llama", space_prefix=False, fallback_roles={"eot": "<end_of_turn>"}),
    VocabularyStyle.GEMMA_4: Habits(only="gemma4", space_prefix=False, visible=_GEMMA_4_VISIBLE),
    VocabularyStyle.BYTE_LEVEL: Habits(only="gpt2"),
    VocabularyStyle.BERT: Habits(segments=True, encoder=True),
    VocabularyStyle.MODERN_BERT: Habits(only="gpt2", adds={"bos": True, "eos": True, "sep": True}, encoder=True),
    VocabularyStyle.EURO_BERT: Habits(only="gpt2", adds={"bos": False}, encoder=True),
    VocabularyStyle.T5: Habits(encoder=True),
    VocabularyStyle.CHATGLM: Habits(
        fallback_roles={"eos": _END, "eot": _USER, "unk": _END}, adds={"bos": False}, aliases=_GLM
    ),
    VocabularyStyle.GLM: Habits(
        fallback_roles={"bos": "[gMASK]", "eot": _USER, "unk": _END, "eom": _OBSERVATION}, aliases=_GLM
    ),
    VocabularyStyle.GLM_4: Habits(fallback_roles={"eos": _END, "eot": _USER, "unk": _END, "bos": _END}, aliases=_GLM),
    VocabularyStyle.ERNIE: Habits(reads_add_prefix_space=True),
    VocabularyStyle.INTERNLM2: Habits(roles={"eos": "<|im_end|>"}),
    VocabularyStyle.MAMBA: Habits(row_multiple=8),
    VocabularyStyle.MAMBA_2: Habits(row_multiple=16),
    VocabularyStyle.NEMOTRON: Habits(),
    VocabularyStyle.PHI: Habits(adds={"bos": False}),
}
