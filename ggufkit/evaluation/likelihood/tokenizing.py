"""Texts cut into tokens by a process of its own; who only asks for that needs no NumPy."""

from collections.abc import Sequence
from pathlib import Path

from ggufkit.evaluation.child_process import ask
from ggufkit.evaluation.likelihood.request import Request, Task
from ggufkit.evaluation.likelihood.running import Running

READER = "ggufkit.evaluation.likelihood.child"


def token_files(
    model: Path, texts: Sequence[Path], folder: Path, running: Running, *, parse_special: bool = False
) -> list[Path]:
    """Cut texts into tokens by llama.cpp, as llama-perplexity does; each into a file of little-endian int32.

    BOS is in front if the model wants it. With `parse_special`, for rendered chats, the names of special tokens become
    those tokens.

    Raises:
        As the engine; LlamaCppError when it died.
    """
    path, tokens = folder / "tokenize.json", folder / "text-tokens"
    request = Request(
        task=Task.TOKENIZE,
        model=str(model.absolute()),
        running=running,
        texts=tuple(str(text.absolute()) for text in texts),
        tokens=str(tokens),
        parse_special=parse_special,
    )
    request.write(path)
    ask(READER, path, request.model)
    return [Path(f"{tokens}.{number}") for number in range(len(texts))]
