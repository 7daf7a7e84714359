"""Cutting texts into tokens by libllama, in a process of its own: a broken vocabulary may end that one only.

    python -m ggufkit.llamacpp.vocabulary REQUEST.json

The request names a file, texts, and pre-tokenizers to try one after another in place of the file's own. Into its
folder go `0.json`, `1.json` …: the ids of every text.
"""

import ctypes
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ggufkit.errors import LlamaCppError
from ggufkit.llamacpp import binding
from ggufkit.llamacpp.run import run

_PRE_KEY = b"tokenizer.ggml.pre"
_TEXT_OVERRIDE = 3  # llama.h, enum llama_model_kv_override_type


def tokenize_with_each(model: Path, pretokenizers: Sequence[str], texts: Sequence[str]) -> list[list[list[int]] | None]:
    """Cut texts with each pre-tokenizer in turn; ids by pre-tokenizer and text, None where llama.cpp died.

    Control tokens in the texts are parsed; nothing is put in front or behind.

    Raises:
        LlamaCppError: llama.cpp cannot load the file at all.
        MissingDependencyError: llama.cpp or its binding is not installed.
    """
    binding.check_installed()
    found: list[list[list[int]] | None] = []
    while len(found) < len(pretokenizers):
        left = list(pretokenizers[len(found) :])
        with tempfile.TemporaryDirectory() as folder:
            request = {"model": str(model), "pretokenizers": left, "texts": list(texts)}
            path = Path(folder) / "request.json"
            path.write_text(json.dumps(request), encoding="utf-8")
            failure = None
            try:
                run([sys.executable, "-P", "-m", __name__, path], environment={"GGML_NO_BACKTRACE": "1"})
            except LlamaCppError as error:
                failure = error
            answers = [Path(folder) / f"{index}.json" for index in range(len(left))]
            found += [json.loads(answer.read_text(encoding="utf-8")) for answer in answers if answer.exists()]
        if failure is not None:
            if not any(found) and len(found) + 1 == len(pretokenizers):
                raise failure
            found.append(None)
    return found


def _answer(path: Path) -> None:
    request: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    library = binding.load()
    library.llama_backend_init()
    texts = [text.encode("utf-8", "surrogatepass") for text in request["texts"]]
    for index, name in enumerate(request["pretokenizers"]):
        ids = _cut(library, Path(request["model"]), name, texts)
        unfinished = path.with_name(f"{index}.unfinished")
        unfinished.write_text(json.dumps(ids), encoding="utf-8")
        unfinished.rename(path.with_name(f"{index}.json"))


def _cut(library: Any, model: Path, name: str, texts: Sequence[bytes]) -> list[list[int]]:
    parameters = library.llama_model_default_params()
    parameters.vocab_only = True
    overrides = (library.llama_model_kv_override * 2)()  # the second, without a key, ends the list
    overrides[0].tag, overrides[0].key = _TEXT_OVERRIDE, _PRE_KEY
    overrides[0].value.val_str = name.encode("utf-8")
    parameters.kv_overrides = overrides
    handle = library.llama_model_load_from_file(os.fsencode(model), parameters)
    if not handle:
        raise LlamaCppError(f"llama.cpp cannot load the vocabulary {model}: {binding.log_tail(3)}")
    try:
        vocabulary = library.llama_model_get_vocab(handle)
        return [_ids(library, vocabulary, text) for text in texts]
    finally:
        library.llama_model_free(handle)


def _ids(library: Any, vocabulary: Any, text: bytes) -> list[int]:
    room = len(text) + 16
    ids = (ctypes.c_int32 * room)()
    count = library.llama_tokenize(vocabulary, text, len(text), ids, room, False, True)
    if count < 0:
        raise LlamaCppError(f"llama.cpp needs {-count} tokens for a text of {len(text)} bytes")
    return list(ids[:count])


if __name__ == "__main__":
    _answer(Path(sys.argv[1]))
