"""The parts of a split model, written by the `gguf` package: all are found from the first, and strangers refused."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from ggufkit.errors import GgufFileError
from ggufkit.gguf_file.parts import part_names, read_parts


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    return write(tmp_path / "model.gguf", tensors=3)


def write(path: Path, *, tensors: int) -> list[Path]:
    """Write a model with one tensor in each part; return the parts."""
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=1)
    for number in range(tensors):
        writer.add_tensor(f"blk.{number}.attn_norm.weight", np.full(4, number, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return part_names(path, tensors)


def test_all_parts_are_found_from_the_first_one(parts: list[Path]) -> None:
    assert parts == sorted(parts[0].parent.glob("*.gguf"))
    headers = read_parts(parts[0])
    assert [header.path for header in headers] == parts
    assert [tensor.name for header in headers for tensor in header.tensors] == [
        f"blk.{number}.attn_norm.weight" for number in range(3)
    ]


def test_parts_are_named_from_the_whole_and_from_any_part() -> None:
    expected = [Path("a/m-00001-of-00002.gguf"), Path("a/m-00002-of-00002.gguf")]
    assert part_names(Path("a/m.gguf"), 2) == expected
    assert part_names(expected[1], 2) == expected


def test_a_later_part_is_not_the_model(parts: list[Path]) -> None:
    with pytest.raises(GgufFileError, match="not its first") as error:
        read_parts(parts[1])
    assert "-00001-of-00003.gguf" in (error.value.hint or "")


def test_a_missing_part_is_named(parts: list[Path]) -> None:
    parts[2].unlink()
    with pytest.raises(GgufFileError, match="00003-of-00003"):
        read_parts(parts[0])


def test_a_part_in_the_place_of_another_is_refused(parts: list[Path]) -> None:
    parts[2].write_bytes(parts[1].read_bytes())
    with pytest.raises(GgufFileError, match=r"says that it is part 1 .* expected 2"):
        read_parts(parts[0])


def test_a_part_of_another_split_is_refused(parts: list[Path], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = write(tmp_path / "other" / "model.gguf", tensors=2)
    parts[1].write_bytes(other[1].read_bytes())
    with pytest.raises(GgufFileError, match="there are 2, not 3"):
        read_parts(parts[0])
