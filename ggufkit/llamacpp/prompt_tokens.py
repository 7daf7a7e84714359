"""What libllama makes of prompts: ids, what each token is, and whether it would put one in front; in a child process.

    python -m ggufkit.llamacpp.prompt_tokens REQUEST.json

The request names a file, texts, and where to write the answer. A broken vocabulary ends the child only.
"""

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ggufkit.errors import LlamaCppError
from ggufkit.llamacpp import binding
from ggufkit.llamacpp.run import run


@dataclass(frozen=True, slots=True)
class PromptToken:
    """A token of a prompt: `text` is what it stands for, `control` and `ends` what it does beside."""

    id: int
    text: str
    control: bool
    ends: bool  # a model that answers with it has finished


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """The tokens of several texts, control tokens parsed and nothing put in front."""

    texts: tuple[tuple[PromptToken, ...], ...]
    bos: int | None
    puts_bos: bool  # in front of what it is given, unless told otherwise


def tokens_of(model: Path, texts: Sequence[str]) -> PromptTokens:
    """Cut texts into tokens with the vocabulary of a GGUF file.

    Raises:
        LlamaCppError: llama.cpp cannot load the vocabulary.
        MissingDependencyError: llama.cpp or its binding is not installed.
    """
    binding.check_installed()
    with tempfile.TemporaryDirectory() as folder:
        request, answer = Path(folder) / "request.json", Path(folder) / "answer.json"
        content = {"model": str(model.absolute()), "texts": list(texts), "answer": str(answer)}
        request.write_text(json.dumps(content), encoding="utf-8")
        run([sys.executable, "-P", "-m", __name__, request], environment={"GGML_NO_BACKTRACE": "1"})
        found = json.loads(answer.read_text(encoding="utf-8"))
    prompts = tuple(tuple(PromptToken(**token) for token in text) for text in found["texts"])
    return PromptTokens(prompts, found["bos"], found["puts_bos"])


def _answer(request: Path) -> None:
    from ggufkit.llamacpp.native.vocabulary import Vocabulary

    asked: dict[str, Any] = json.loads(request.read_text(encoding="utf-8"))
    library = binding.load()
    library.llama_backend_init()
    parameters = library.llama_model_default_params()
    parameters.vocab_only = True
    handle = library.llama_model_load_from_file(os.fsencode(asked["model"]), parameters)
    if not handle:
        raise LlamaCppError(f"llama.cpp cannot load the vocabulary of {asked['model']}: {binding.log_tail(3)}")
    vocabulary = Vocabulary(library, handle)
    texts = [_tokens(vocabulary, text) for text in asked["texts"]]
    answer = {"texts": texts, "bos": vocabulary.bos, "puts_bos": vocabulary.wants_bos}
    Path(asked["answer"]).write_text(json.dumps(answer), encoding="utf-8")


def _tokens(vocabulary: Any, text: str) -> list[dict[str, Any]]:
    ids = vocabulary.tokenize(text.encode("utf-8", "surrogatepass"), add_special=False, parse_special=True)
    return [
        asdict(
            PromptToken(
                token,
                vocabulary.token_bytes(token, special=True).decode("utf-8", "backslashreplace"),
                vocabulary.is_control(token),
                vocabulary.ends_generation(token),
            )
        )
        for token in ids
    ]


if __name__ == "__main__":
    _answer(Path(sys.argv[1]))
