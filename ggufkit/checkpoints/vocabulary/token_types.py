"""What kind a token is to llama.cpp, and which added tokens count as control tokens."""

from enum import IntEnum


class TokenType(IntEnum):
    """The values of `tokenizer.ggml.token_type` (llama.h, llama_token_type)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_CONTROL_BY_NAME = frozenset({"<pad>", "<mask>", "<2mass>", "[@BOS@]"})
_CONTROL_BY_SHAPE = (("<|", "|>"), ("<\uff5c", "\uff5c>"), ("<unused", ">"))  # \uff5c: DeepSeek's wide bar
_SPACE = "▁"  # SentencePiece's sign for a space


# llama.cpp takes any token with one of these texts for a control token, of whatever type (llama-vocab.cpp, in
# llama_vocab::impl::load). The first make it stop generating.
ENDS_BY_NAME = frozenset(
    {
        *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>"),
        *("<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>"),
        *("<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<\uff5cend▁of▁sentence\uff5c>", "[e~["),
    }
)
FILLS_BY_NAME = frozenset(
    {
        *("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<\uff5cfim▁begin\uff5c>", "<PRE>", "▁<PRE>"),
        *("<|code_prefix|>", "<|prefix|>", "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<\uff5cfim▁hole\uff5c>"),
        *("<SUF>", "▁<SUF>", "<|code_suffix|>", "<|suffix|>", "<|fim_middle|>", "<fim-middle>", "<fim_middle>"),
        *("<\uff5cfim▁end\uff5c>", "<MID>", "▁<MID>", "<|code_middle|>", "<|middle|>", "<|fim_pad|>", "<fim-pad>"),
        *("<fim_pad>", "<PAD>", "[PAD]", "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
        "<|file_sep|>",
    }
)


def looks_special(text: str) -> bool:
    """Tell whether a token is a control token by its looks.

    Some checkpoints (deepseek-coder, Gemma, Command-R) do not mark theirs. The names and shapes are those of
    llama.cpp's converter (conversion/base.py, does_token_look_special).
    """
    if text in _CONTROL_BY_NAME:
        return True
    return any(text.startswith(left) and text.endswith(right) for left, right in _CONTROL_BY_SHAPE)


def classify_added(text: str, *, special: bool) -> tuple[str, TokenType]:
    """Give an added token the text and type that llama.cpp wants: a user-defined one is matched with plain spaces."""
    if special or looks_special(text):
        return text, TokenType.CONTROL
    return text.replace(_SPACE, " "), TokenType.USER_DEFINED


def padding_token(token_id: int) -> str:
    """Name a row of the embedding matrix that no token uses, as llama.cpp's converter does."""
    return f"[PAD{token_id}]"
