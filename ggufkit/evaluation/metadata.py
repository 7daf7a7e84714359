"""The metadata of a GGUF file against what the conversion's plan writes: sizes, rope, tokenizer, template."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ggufkit.conversion.plan import ConversionPlan
from ggufkit.counting import counted
from ggufkit.evaluation.results import Check, Grade
from ggufkit.gguf_file.reader import GgufHeader, Value, read_header

NAME = "metadata"
_SHOWN = 8
_TOKENIZER_MODEL = "tokenizer.ggml.model"

# What tells about the file or about people's words for the model, and changes nothing that it computes.
_DESCRIPTIVE = ("general.", "split.", "quantize.", "ggufkit.", "GGUF.")
# The architecture is no mere description.
_MEANINGFUL = {"general.architecture", "general.alignment"}
# What llama.cpp assumes when a key is missing (src/llama-model.cpp, load_hparams), where it is a constant.
_ASSUMED: Mapping[str, Value] = {
    "rope.freq_base": 10000.0,
    "rope.scaling.factor": 1.0,
    "rope.scaling.type": "none",
    "expert_weights_scale": 1.0,
    "expert_weights_norm": False,
}


def check_metadata(plan: ConversionPlan, parts: Sequence[GgufHeader]) -> Check:
    """Compare every key that bears on what the model computes; differences in descriptions are only told."""
    expected: Mapping[str, Value] = planned_metadata(plan)
    found: Mapping[str, Value] = parts[0].metadata
    if _TOKENIZER_MODEL not in expected:  # the plan is one of the tensors alone
        found = {key: value for key, value in found.items() if not key.startswith("tokenizer.")}
    architecture = parts[0].metadata.get("general.architecture")
    faults: list[str] = []
    remarks: list[str] = []
    compared = 0
    for key in dict.fromkeys([*expected, *found]):
        described = key.startswith(_DESCRIPTIVE) and key not in _MEANINGFUL
        in_file, wanted = found.get(key), expected.get(key)
        compared += not described
        if same(in_file, wanted):
            continue
        if described:
            if key.startswith("general.") and key not in {"general.file_type", "general.quantization_version"}:
                remarks.append(difference(key, in_file, wanted))
        elif wanted is None and key == f"{architecture}.vocab_size" and in_file == vocabulary_rows(parts[0]):
            remarks.append(f"{key} repeats the number of tokens")
        elif in_file is None and _is_assumed(str(architecture), key, wanted, found):
            remarks.append(f"{key} is left to llama.cpp, which assumes {_short(wanted)}, as it should be")
        else:
            faults.append(difference(key, in_file, wanted))
    figures = {"compared": compared, "faults": faults, "remarks": remarks}
    shown = [*faults[:_SHOWN], *([f"and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else [])]
    shown += remarks[:_SHOWN]
    if faults:
        return Check(
            NAME, Grade.FAILED, f"{faults[0]} ({len(faults)} of {counted(compared, 'key')})", tuple(shown), figures
        )
    if _TOKENIZER_MODEL not in expected:
        remarks.append("the tokenizer's keys were not compared: we cannot convert this tokenizer")
    summary = f"all {compared} keys that bear on the model's answers are equal"
    if remarks:
        return Check(
            NAME,
            Grade.CLOSE,
            f"{summary}, {counted(len(remarks), 'other differs', 'others differ')}",
            tuple(shown),
            figures,
        )
    return Check(NAME, Grade.EXACT, summary, (), figures)


def vocabulary_rows(header: GgufHeader) -> int | None:
    """Count the tokens that the embedding has rows for; None where the file does not tell."""
    embedding = next((tensor for tensor in header.tensors if tensor.name == "token_embd.weight"), None)
    return embedding.shape[1] if embedding and len(embedding.shape) == 2 else None


def planned_metadata(plan: ConversionPlan) -> Mapping[str, Value]:
    """Read back what a plan would write: the header is put into a file with a hole for the weights, and read."""
    with tempfile.TemporaryDirectory() as folder:
        skeleton = Path(folder) / "plan.gguf"
        with skeleton.open("wb") as file:
            file.write(plan.layout.header)
            file.truncate(plan.layout.size)
        return dict(read_header(skeleton).metadata)


def same(left: Value | None, right: Value | None) -> bool:
    """Whether two values are equal, and both or none of them are true-or-false, and both or none fractions."""
    if isinstance(left, list) and isinstance(right, list):
        return left == right
    return type(left) is type(right) and left == right


def difference(key: str, found: Value | None, wanted: Value | None) -> str:
    """Say how a key differs, for people; of two lists, where."""
    if wanted is None:
        return f"{key} is {_short(found)}, and should not be there"
    if found is None:
        return f"{key} is missing, expected {_short(wanted)}"
    if isinstance(found, list) and isinstance(wanted, list):
        if len(found) != len(wanted):
            return f"{key} has {len(found):,} elements, expected {len(wanted):,}"
        at = next(index for index, pair in enumerate(zip(found, wanted, strict=True)) if pair[0] != pair[1])
        return f"{key}: element {at:,} is {_short(found[at])}, expected {_short(wanted[at])}"
    return f"{key} is {_short(found)}, expected {_short(wanted)}"


def _is_assumed(architecture: str, key: str, wanted: Value | None, found: Mapping[str, Value]) -> bool:
    """Whether llama.cpp takes this value by itself when the key is missing."""
    name = key.removeprefix(f"{architecture}.")
    if name == key:
        return key == "tokenizer.ggml.add_bos_token" and wanted is False
    if name in {"attention.key_length", "attention.value_length", "rope.dimension_count"}:
        width, heads = found.get(f"{architecture}.embedding_length"), found.get(f"{architecture}.attention.head_count")
        return isinstance(width, int) and isinstance(heads, int) and heads > 0 and wanted == width // heads
    if name == "vocab_size":
        tokens = found.get("tokenizer.ggml.tokens")
        return isinstance(tokens, list) and len(tokens) == wanted
    if name == "attention.head_count_kv":
        return wanted == found.get(f"{architecture}.attention.head_count")
    return name in _ASSUMED and wanted == _ASSUMED[name]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
