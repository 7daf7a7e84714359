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
