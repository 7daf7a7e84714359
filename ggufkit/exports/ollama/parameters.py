"""PARAMETERs: their types, how Ollama reads them from text, and which of them a model brings with it.

Read from api/types.go (Options, Runner, FormatParams) and parser/parser.go (deprecatedParameters). A Modelfile's text
becomes a typed value, travels to the server as JSON and is written by it: so a float is one of 32 bits, and a whole
one is written without a point.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from ggufkit.errors import InputError, UsageError
from ggufkit.exports.ollama import go_json
from ggufkit.exports.ollama.description import architecture_of, own_stops
from ggufkit.gguf_file.reader import GgufHeader

Parameter: TypeAlias = bool | int | go_json.Float32 | list[str]

_INTEGERS = {
    *("num_ctx", "num_keep", "num_predict", "num_batch", "num_gpu", "main_gpu", "num_thread"),
    *("seed", "top_k", "repeat_last_n", "draft_num_predict"),
}
_FLOATS = {
    *("temperature", "top_p", "min_p", "typical_p"),
    *("repeat_penalty", "presence_penalty", "frequency_penalty"),
}
_BOOLEANS = {"use_mmap"}
_LISTS = {"stop"}
NAMES = sorted(_INTEGERS | _FLOATS | _BOOLEANS | _LISTS)
_KNOWN = f"use one of {', '.join(NAMES)}"
_DEPRECATED = {
    *("penalize_newline", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock"),
    *("mirostat", "mirostat_tau", "mirostat_eta"),
}
_TRUE, _FALSE = {"1", "t", "T", "TRUE", "true", "True"}, {"0", "f", "F", "FALSE", "false", "False"}  # strconv.ParseBool
_INTEGER, _FLOAT = re.compile(r"[+-]?0*[0-9]{1,19}"), re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")

_ABSURD = 2**63  # no sampling value is as large; nor is infinity, or what is no number, less than it
_END_TOKENS = ("eos_token_id", "eot_token_id", "eom_token_id")
_SAMPLING = {  # Ollama's name: the GGUF key of llama.cpp, and the name in generation_config.json
    "temperature": ("general.sampling.temp", "temperature"),
    "top_k": ("general.sampling.top_k", "top_k"),
    "top_p": ("general.sampling.top_p", "top_p"),
    "min_p": ("general.sampling.min_p", "min_p"),
    "typical_p": ("", "typical_p"),
    "repeat_penalty": ("general.sampling.penalty_repeat", "repetition_penalty"),
    "repeat_last_n": ("general.sampling.penalty_last_n", ""),
}


def read_parameters(pairs: Iterable[tuple[str, str]]) -> dict[str, Parameter]:
    """Type parameters as Ollama does: the last of a name counts, but every `stop` is kept.

    Raises:
        UsageError: a name is unknown or no longer has an effect, or a value is not of its type.
    """
    found: dict[str, Parameter] = {}
    for name, text in pairs:
        if name in _DEPRECATED:
            raise UsageError(f"parameter {name} no longer has an effect in Ollama", hint=_KNOWN)
        if name in _LISTS:
            if not text:
                raise UsageError(f"parameter {name} must not be empty: every answer would end at once")
            known = found.setdefault(name, [])
            if isinstance(known, list):
                known.append(text)
        else:
            found[name] = _typed(name, text)
    return found


def _typed(name: str, text: str) -> Parameter:
    if name in _INTEGERS:
        if not _INTEGER.fullmatch(text) or not -(2**63) <= int(text) < 2**63:
            raise UsageError(f"parameter {name} must be a whole number, not {text!r}")
        return int(text)
    if name in _FLOATS:
        if not _FLOAT.fullmatch(text) or abs(go_json.as_float32(float(text))) == float("inf"):
            raise UsageError(f"parameter {name} must be a number, not {text!r}")
        return go_json.Float32(go_json.as_float32(float(text)))
    if name in _BOOLEANS:
        if text not in _TRUE | _FALSE:
            raise UsageError(f"parameter {name} must be true or false, not {text!r}")
        return text in _TRUE
    raise UsageError(f"Ollama has no parameter {name!r}", hint=_KNOWN)


def parameters_of_model(header: GgufHeader, generation_config: Mapping[str, Any] | None = None) -> dict[str, Parameter]:
    """Find what a model says of its own use: where it ends, how much it can look at, how to sample from it.

    Stops are the spellings of its end tokens (of a sequence, a turn, a message, and those of generation_config.json);
    `num_ctx` is the context that it was trained with. Sampling values of the GGUF file come before those of
    generation_config.json, which do not count where it says `do_sample: false`.
    """
    found: dict[str, Parameter] = {}
    architecture = architecture_of(header)
    if stops := own_stops(architecture) or _stops(header, generation_config or {}):
        found["stop"] = stops
    context = header.metadata.get(f"{architecture}.context_length")
    if isinstance(context, int) and not isinstance(context, bool) and context > 0:
        found["num_ctx"] = context
    samples = (generation_config or {}).get("do_sample") is not False
    for name, (key, other) in _SAMPLING.items():
        value = header.metadata.get(key) if key else None
        if value is None and other and samples:
            value = (generation_config or {}).get(other)
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _ABSURD:
            found[name] = int(value) if name in _INTEGERS else go_json.Float32(go_json.as_float32(float(value)))
    return found


def encode(parameters: Mapping[str, Parameter]) -> bytes:
    """Give the bytes of the blob: a map with sorted keys (server/create.go, setParameters).

    The server has read the numbers from JSON, each of which Go takes for a float of 64 bits.
    """
    numbers = {key: float(value) if type(value) is int else value for key, value in parameters.items()}
    return go_json.encode(go_json.sorted_map(numbers))


def as_text(value: Parameter) -> str:
    """Write a parameter, but for a list, as a Modelfile has it."""
    return go_json.marshal(value)


def read_generation_config(path: Path) -> dict[str, Any] | None:
    """Read a generation_config.json; None when there is none.

    Raises:
        InputError: it cannot be read, or is no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object, found {type(content).__name__}")
    return content


def _stops(header: GgufHeader, generation_config: Mapping[str, Any]) -> list[str]:
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, Sequence) or isinstance(tokens, str):
        return []
    more = generation_config.get("eos_token_id")
    numbers = [header.metadata.get(f"tokenizer.ggml.{name}") for name in _END_TOKENS]
    numbers += more if isinstance(more, list) else [more]
    texts = [
        tokens[number]
        for number in numbers
        if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < len(tokens)
    ]
    return [text for text in dict.fromkeys(texts) if isinstance(text, str) and text]
