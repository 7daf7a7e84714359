"""Every tensor byte and every metadata value equals that of llama.cpp's own converter, but for the list below."""

from collections.abc import Callable
from pathlib import Path

import hub_checkpoints
import pytest
import tiny_checkpoints
from gguf import GGUFReader

from ggufkit.conversion import Converter, OutputType, convert

pytestmark = pytest.mark.oracle

# What we write and llama.cpp's converter does not, by recipe; everything else must be equal.
HEAD_SIZES = {"llama.attention.key_length", "llama.attention.value_length"}
ONLY_OURS = {
    # The config has no head_dim; what we write is what llama.cpp then assumes.
    **dict.fromkeys(("mixtral", "mistral-7b-v0.1", "mistral-7b-v0.3", "mixtral-8x7b"), HEAD_SIZES),
    # Two tokens end generation, as generation_config.json or config.json says: theirs keeps the first.
    "llama-3.1-8b": {*HEAD_SIZES, "tokenizer.ggml.eot_token_id"},
    # Nor a rope_theta.
    "llama-2-7b": {*HEAD_SIZES, "llama.rope.freq_base"},
}
WARNINGS = {
    ("mistral-7b-v0.1", hub_checkpoints.AS_RELEASED): "sliding_window of 4096",
    ("deepseek-v3", hub_checkpoints.AS_RELEASED): "tensors of multi-token prediction",
}


@pytest.mark.parametrize(
    ("name", "dtype", "outtype"), [*tiny_checkpoints.UPSTREAM_JOBS, *hub_checkpoints.UPSTREAM_JOBS], ids=str
)
def test_equals_llama_cpp(
    name: str,
    dtype: str,
    outtype: str,
    checkpoint: Callable[..., Path],
    upstream: Callable[[str, str, str], Path],
    tmp_path: Path,
) -> None:
    source = checkpoint(name, dtype)
    ours = tmp_path / "ours.gguf"
    result = convert(source, ours, outtype=OutputType(outtype), converter=Converter.NATIVE)
    assert len(result.warnings) == ((name, dtype) in WARNINGS)
    assert WARNINGS.get((name, dtype), "") in "".join(result.warnings)

    mine, theirs = GGUFReader(ours), GGUFReader(upstream(name, dtype, outtype))

    assert {t.name: (t.tensor_type.name, t.shape.tolist()) for t in mine.tensors} == {
        t.name: (t.tensor_type.name, t.shape.tolist()) for t in theirs.tensors
    }
    expected = {t.name: t.data.tobytes() for t in theirs.tensors}
    assert [t.name for t in mine.tensors if t.data.tobytes() != expected[t.name]] == []

    my_fields, their_fields = _fields(mine), _fields(theirs)
    for key in ONLY_OURS.get(name, ()):
        assert key not in their_fields, f"{key} is no longer an exception"
        del my_fields[key]
    assert my_fields == their_fields


def _fields(reader: GGUFReader) -> dict[str, tuple[list[str], object]]:
    """Key -> value types and value, without what the reader makes up about the file itself, and without its origin."""
    return {
        name: ([kind.name for kind in field.types], field.contents())
        for name, field in reader.fields.items()
        if not name.startswith(("GGUF.", "ggufkit."))
    }
