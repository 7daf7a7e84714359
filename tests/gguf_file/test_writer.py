"""The layout of a file to be written: long arrays are packed in one go, to the bytes of the `gguf` package."""

import io
from typing import Any

import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.gguf_writer import WriterState

from ggufkit.gguf_file.writer import lay_out


def packed_by_gguf(metadata: dict[str, Any]) -> bytes:
    writer = GGUFWriter(None, "llama")
    for key, value in metadata.items():
        writer.add_array(key, value)
    buffer = io.BytesIO()
    writer.fout, writer.state = [buffer], WriterState.EMPTY
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    return buffer.getvalue()


@pytest.mark.oracle
@pytest.mark.parametrize(
    "values", [["a", "", "ä b", "犬"], [1, -2, 2**31 - 1], [0.5, -1e30, float("inf")], [True, False], ["a"] * 1000]
)
def test_arrays_are_packed_as_gguf_does(values: list[Any]) -> None:
    ours = lay_out("llama", {"some.key": values}, []).header
    theirs = packed_by_gguf({"some.key": values})
    assert ours[: len(theirs)] == theirs


@pytest.mark.parametrize("values", [[1, "a"], [2**31], [None]])
def test_what_fits_no_array_is_refused(values: list[Any]) -> None:
    with pytest.raises(Exception, match=r".+"):
        lay_out("llama", {"some.key": values}, [("a", (1,), GGMLQuantizationType.F32)])
