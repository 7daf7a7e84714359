"""The header reader agrees with the safetensors library, on good files and on bad ones, and names what is wrong."""

import json
import struct
from pathlib import Path
from typing import Any

import handmade_checkpoint
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ggufkit.checkpoints import open_checkpoint
from ggufkit.checkpoints.safetensors import SafetensorsFile, open_safetensors
from ggufkit.errors import CheckpointError, UnsafeError

GOOD = save(
    {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones((4,), np.float16), "empty": np.ones((0, 2))},
    metadata={"format": "pt"},
)


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def raw(header: Any, data: bytes = b"\0" * 8) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


BAD = {
    "empty file": b"",
    "seven bytes": b"\0" * 7,
    "header beyond the file": struct.pack("<Q", 1 << 31) + b"{}",
    "header of 2^63": struct.pack("<Q", 1 << 63) + b"{}",
    "header of 2^64 - 1": struct.pack("<Q", (1 << 64) - 1) + b"{}",
    "html page": b"<!DOCTYPE html><html><body>Not found</body></html>",
    "lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "not utf-8": raw(b'{"\xff":1}'),
    "not json": raw(b"{,}"),
    "a list": raw([1]),
    "nested": raw(b'{"a":' * 50_000),
    "metadata of numbers": raw({"__metadata__": {"a": 1}, "a": entry()}),
    "tensor is a list": raw({"a": []}),
    "unknown type": raw({"a": entry(dtype="F31")}),
    "negative axis": raw({"a": entry(shape=(-2,))}),
    "float axis": raw({"a": entry(shape=(2.0,))}),
    "shape too large": raw({"a": entry(shape=(3,))}),
    "product over 2^64": raw({"a": entry(shape=(1 << 40, 1 << 40))}),
    "offsets swapped": raw({"a": entry(offsets=(8, 0))}),
    "offsets beyond the file": raw({"a": entry(offsets=(8, 16))}),
    "hole": raw({"a": entry(offsets=(8, 16))}, b"\0" * 16),
    "overlap": raw({"a": entry(), "b": entry(offsets=(4, 12))}, b"\0" * 12),
    "bytes left over": raw({"a": entry()}, b"\0" * 9),
    "one byte short": raw({"a": entry()}, b"\0" * 7),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_by_us_and_by_the_library(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(BAD[name])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        SafetensorsFile(path)
    with pytest.raises((SafetensorError, OSError)):
        safe_open(path, framework="numpy")


def test_a_header_must_begin_with_a_brace(tmp_path: Path) -> None:
    """The format says so, though the library forgives a space."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw(b' {"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'))
    with pytest.raises(CheckpointError, match="does not start with"):
        SafetensorsFile(path)


def test_a_good_file_gives_the_bytes_that_the_library_gives(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(GOOD)
    file = SafetensorsFile(path)
    with safe_open(path, framework="numpy") as library:
        assert set(file.tensors) == set(library.keys())
        for name, tensor in file.tensors.items():
            buffer = bytearray(tensor.size)
            tensor.read_into(memoryview(buffer))
            expected = library.get_tensor(name)
            assert (tensor.shape, bytes(buffer)) == (expected.shape, expected.tobytes())
    file.close()


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, len(GOOD) - 1), value=st.integers(0, 255))
def test_a_changed_byte_gets_the_library_s_verdict(tmp_path_factory: Any, position: int, value: int) -> None:
    """What we accept, the library accepts; we are stricter only in what would not be a weight."""
    path = tmp_path_factory.mktemp("mutant") / "model.safetensors"
    path.write_bytes(GOOD[:position] + bytes([value]) + GOOD[position + 1 :])
    try:
        SafetensorsFile(path).close()
    except CheckpointError:
        return
    with safe_open(path, framework="numpy"):
        pass


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    handmade_checkpoint.shard(tmp_path, parts=3)
    with open_checkpoint(tmp_path) as checkpoint:
        assert set(checkpoint.tensors) == set(handmade_checkpoint.tensors())


def change_index(folder: Path, **changes: str | None) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] = {k: v for k, v in {**index["weight_map"], **changes}.items() if v is not None}
    path.write_text(json.dumps(index))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    first, _ = handmade_checkpoint.shard(tmp_path)
    first.unlink()
    with pytest.raises(CheckpointError, match=f"a shard is missing: .*{first.name}") as caught:
        open_safetensors(tmp_path)
    assert caught.value.hint == f"download {first.name} again"


def test_a_shard_cut_by_one_byte_is_named(tmp_path: Path) -> None:
    first, _ = handmade_checkpoint.shard(tmp_path)
    first.write_bytes(first.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=first.name):
        open_safetensors(tmp_path)


def test_swapped_shards_are_found(tmp_path: Path) -> None:
    first, second = handmade_checkpoint.shard(tmp_path)
    first.rename(tmp_path / "third")
    second.rename(first)
    (tmp_path / "third").rename(second)
    with pytest.raises(CheckpointError, match="where it is not"):
        open_safetensors(tmp_path)


def test_index_and_shards_must_agree(tmp_path: Path) -> None:
    first, _ = handmade_checkpoint.shard(tmp_path)
    change_index(tmp_path, **{"made.up": first.name})
    with pytest.raises(CheckpointError, match=r"'made\.up' is in .* where it is not"):
        open_safetensors(tmp_path)
    change_index(tmp_path, **{"made.up": None, "lm_head.weight": None})
    with pytest.raises(CheckpointError, match=r"does not know tensor 'lm_head\.weight'"):
        open_safetensors(tmp_path)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "C:\\x", "..", "", "a/b", "nul\0"])
def test_an_index_cannot_lead_out_of_its_folder(tmp_path: Path, name: str) -> None:
    handmade_checkpoint.shard(tmp_path)
    change_index(tmp_path, **{"lm_head.weight": name})
    with pytest.raises(UnsafeError, match="outside of its folder"):
        open_safetensors(tmp_path)


def test_a_file_that_shrinks_while_it_is_read_is_an_error_and_not_a_signal(tmp_path: Path) -> None:
    handmade_checkpoint.write(tmp_path)
    path = tmp_path / "model.safetensors"
    with open_checkpoint(tmp_path) as checkpoint:
        path.write_bytes(path.read_bytes()[:2000])
        tensor = checkpoint.tensors["model.norm.weight"]
        with pytest.raises(CheckpointError, match="ends before byte"):
            tensor.read_into(memoryview(bytearray(tensor.size)))
