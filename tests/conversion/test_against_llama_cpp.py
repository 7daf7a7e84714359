"""Every tensor byte and every metadata value equals that of llama.cpp's own converter, but for the list below."""

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_checkpoints
from gguf import GGUFReader

from ggufkit.conversion import Converter, OutputType, convert

pytestmark = pytest.mark.oracle

# What we write and llama.cpp's converter does not, by recipe; everything else must be equal.
ONLY_OURS = {
    # transformers' MixtralConfig omits head_dim, which every other Llama has; the value is llama.cpp's default.
    "mixtral": {"llama.attention.key_length", "llama.attention.value_length"},
}


@pytest.mark.parametrize(("name", "dtype", "outtype"), tiny_checkpoints.UPSTREAM_JOBS, ids="-".join)
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
    assert result.warnings == ()

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
    """Key -> value types and value, without what the reader makes up about the file itself."""
    return {
        name: ([kind.name for kind in field.types], field.contents())
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")
    }
