"""A process of its own that runs llama.cpp on a model which may be broken: it may die, and only it.

The request names the model, texts to cut into tokens, and prompts (token ids) to compute the logits of. Into the folder
of the request go `tokens.json` and `logits-0.npy`, `logits-1.npy` …, float32 [n_tokens, n_vocab]; of an encoder hidden
states, float32 [n_tokens, n_embd].
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import GgufkitError, LlamaCppError, MissingDependencyError
from ggufkit.inference.engine import Engine
from ggufkit.inference.options import CacheType, EngineOptions, FlashAttention, LoraAdapter
from ggufkit.llamacpp.cpu import usable_cores
from ggufkit.llamacpp.encoder import Encoder
from ggufkit.llamacpp.run import run

_REFUSED = 3


class Output(StrEnum):
    """What a model gives for a prompt."""

    LOGITS = "logits"
    HIDDEN = "hidden states"  # of an encoder
    DECODED = "decoded"  # logits, of a decoder that begins anew and is given the prompt once it was encoded


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be done; a text is cut with or without control tokens being made of their spelling."""

    model: str
    texts: Sequence[str] = ()
    parse_special: bool = True
    prompts: Sequence[Sequence[int]] = ()
    adapter: str | None = None
    threads: int | None = None
    output: Output = Output.LOGITS
    start: int = 0


def tokenize(model: Path, texts: Sequence[str], *, parse_special: bool) -> list[list[int]]:
    """Cut texts into token ids by llama.cpp, in a process of its own; nothing is put in front or behind.

    Raises:
        LlamaCppError: it failed, or died.
        MissingDependencyError: llama.cpp or its binding is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        _ask(Path(folder), Request(str(model.resolve()), texts=list(texts), parse_special=parse_special))
        tokens: list[list[int]] = json.loads((Path(folder) / "tokens.json").read_text())
        return tokens


def logits(
    model: Path,
    prompts: Sequence[Sequence[int]],
    *,
    adapter: Path | None = None,
    threads: int | None = None,
    output: Output = Output.LOGITS,
    start: int = 0,
) -> list[NDArray[np.float32]]:
    """Compute the logits after every token of every prompt, float32 [n_tokens, n_vocab] each, as exactly as it can.

    Keys and values are kept as float32, and attention is not fused. `output` may ask for hidden states instead, or for
    a decoder's logits: those after the token `start` and all but the last of the prompt.

    Raises:
        LlamaCppError: llama.cpp failed, or died.
        MissingDependencyError: llama.cpp or its binding is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        request = Request(
            str(model.resolve()),
            prompts=[list(prompt) for prompt in prompts],
            adapter=str(adapter.resolve()) if adapter else None,
            threads=threads,
            output=output,
            start=start,
        )
        _ask(Path(folder), request)
        return [np.load(Path(folder) / f"logits-{index}.npy") for index in range(len(prompts))]


def _ask(folder: Path, request: Request) -> None:
    path = folder / "request.json"
    path.write_text(json.dumps(asdict(request)))
    try:
        run([sys.executable, "-P", "-c", "from ggufkit.evaluation.engine_child import main; main()", path])
    except LlamaCppError as error:
        answer = folder / "error.json"
        if answer.exists():
            told = json.loads(answer.read_text())
            if told["missing"]:
                raise MissingDependencyError(told["message"], hint=told["hint"]) from None
            raise LlamaCppError(told["message"]) from None
        raise LlamaCppError(str(error).partition(" (command: ")[0]) from None


def _answer(path: Path) -> None:
    request: dict[str, Any] = json.loads(path.read_text())
    prompts = request["prompts"]
    if request["output"] != Output.LOGITS:
        _encode(path.parent, request)
        return
    options = EngineOptions(
        vocabulary_only=not prompts,
        context_size=max(64, *(len(prompt) for prompt in prompts)) if prompts else None,
        gpu_layers=0,
        threads=request["threads"],
        adapters=(LoraAdapter(Path(request["adapter"])),) if request["adapter"] else (),
        flash_attention=FlashAttention.OFF,
        cache_type_k=CacheType.F32,
        cache_type_v=CacheType.F32,
    )
    with Engine.open(Path(request["model"]), options) as engine:
        if request["texts"]:
            tokens = [engine.tokenize(text, parse_special=request["parse_special"]) for text in request["texts"]]
            (path.parent / "tokens.json").write_text(json.dumps(tokens))
        for index, prompt in enumerate(prompts):
            np.save(path.parent / f"logits-{index}.npy", engine.logits(prompt))


def _encode(folder: Path, request: dict[str, Any]) -> None:
    prompts, decodes = request["prompts"], request["output"] == Output.DECODED
    size = max(64, *(len(prompt) for prompt in prompts))
    threads = request["threads"] or usable_cores()
    with Encoder(Path(request["model"]), size=size, threads=threads, decodes=decodes) as encoder:
        for index, prompt in enumerate(prompts):
            start = [request["start"], *prompt[:-1]]
            result = encoder.decoded(prompt, start) if decodes else encoder.hidden_states(prompt)
            np.save(folder / f"logits-{index}.npy", result)


def main() -> None:
    """Answer the request that the command line names: what the child process does."""
    path = Path(sys.argv[1])
    try:
        _answer(path)
    except GgufkitError as error:
        told = {"message": str(error), "hint": error.hint, "missing": isinstance(error, MissingDependencyError)}
        (path.parent / "error.json").write_text(json.dumps(told))
        sys.exit(_REFUSED)
