"""The checked GGUF reader: equal to the `gguf` package on what that wrote, and unimpressed by anything else."""

import contextlib
import ctypes
import errno
import os
import resource
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import raw_gguf as raw
import tiny_gguf
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ggufkit.errors import GgufFileError
from ggufkit.gguf_file.reader import MAX_ARRAY_STRINGS, ValueType, read_header, tensor_bytes
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp.find import find

SCALARS: dict[gguf.GGUFValueType, Any] = {
    gguf.GGUFValueType.UINT8: 255,
    gguf.GGUFValueType.INT8: -128,
    gguf.GGUFValueType.UINT16: 65535,
    gguf.GGUFValueType.INT16: -32768,
    gguf.GGUFValueType.UINT32: 2**32 - 1,
    gguf.GGUFValueType.INT32: -(2**31),
    gguf.GGUFValueType.FLOAT32: 0.5,
    gguf.GGUFValueType.BOOL: True,
    gguf.GGUFValueType.STRING: "Ünïcödé 犬 🐕\n",
    gguf.GGUFValueType.UINT64: 2**64 - 1,
    gguf.GGUFValueType.INT64: -(2**63),
    gguf.GGUFValueType.FLOAT64: 0.1,
}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A file by the gguf package with every kind of value, and tensors of several types and ranks."""
    path = tmp_path / "written.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for kind, value in SCALARS.items():
        writer.add_key_value(f"scalar.{kind.name}", value, kind)
        writer.add_key_value(f"array.{kind.name}", [value, value], gguf.GGUFValueType.ARRAY, sub_type=kind)
    random = np.random.default_rng(0)
    writer.add_tensor("one", random.standard_normal(5).astype(np.float32))
    writer.add_tensor("two", random.standard_normal((3, 7)).astype(np.float16))
    writer.add_tensor("three", random.integers(-5, 5, (2, 3, 4)).astype(np.int8))
    blocks = random.integers(0, 255, (2, 2 * 144), dtype=np.uint8)
    writer.add_tensor("quantized", blocks, raw_dtype=gguf.GGMLQuantizationType.Q4_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.oracle
def test_metadata_equal_those_that_the_gguf_package_reads(written: Path):
    reader, header = gguf.GGUFReader(written), read_header(written)
    fields = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert list(header.metadata) == list(fields)
    for key, field in fields.items():
        kinds = [int(kind) for kind in field.types]
        entry = header.metadata.entries[key]
        assert [entry.kind, *([entry.element_kind] if entry.element_kind is not None else [])] == kinds[:2], key
        assert header.metadata[key] == field.contents(), key
    assert header.metadata["scalar.BOOL"] is True
    assert header.metadata["array.BOOL"] == [True, True]


@pytest.mark.oracle
def test_tensors_equal_those_that_the_gguf_package_reads(written: Path):
    reader, header = gguf.GGUFReader(written), read_header(written)
    assert (header.version, header.alignment, header.data_offset) == (3, reader.alignment, reader.data_offset)
    assert header.file_size == written.stat().st_size
    for theirs, ours in zip(reader.tensors, header.tensors, strict=True):
        assert (ours.name, ours.shape) == (theirs.name, tuple(int(extent) for extent in theirs.shape))
        assert (ours.type, ours.offset, ours.size) == (theirs.tensor_type, theirs.data_offset, theirs.n_bytes)
        assert ours.elements == theirs.n_elements
        with tensor_bytes(header, ours) as view:
            assert bytes(view) == theirs.data.tobytes()


@pytest.mark.oracle
@pytest.mark.engine
def test_tensor_types_are_those_of_ggml():
    # Not the gguf package's table: it lacks Q2_0 and is wrong about the size of Q8_1.
    library = ctypes.CDLL(str(find().library("ggml-base")))
    library.ggml_type_name.restype = ctypes.c_char_p
    library.ggml_type_size.restype = ctypes.c_size_t
    library.ggml_blck_size.restype = ctypes.c_int64
    theirs = {}
    for number in range(64):
        name = library.ggml_type_name(number)
        if name == b"NONE" or (number > max(TensorType) and not name):
            break
        if block := library.ggml_blck_size(number):
            theirs[name.decode().upper()] = (number, block, library.ggml_type_size(number))
        if number == max(TensorType):
            break
    assert theirs == {kind.name: (kind.value, kind.block_size, kind.block_bytes) for kind in TensorType}


def _vocabulary(path: Path, count: int) -> Path:
    tokens = b"".join(raw.string(f"tok{number}") for number in range(count))
    path.write_bytes(raw.file([raw.NAME, raw.array("tokens", raw.STRING, count, tokens)]))
    return path


def test_a_large_vocabulary_costs_little_time(tmp_path: Path):
    count = 262_144
    path = _vocabulary(tmp_path / "vocabulary.gguf", count)
    started = time.process_time()
    header = read_header(path)
    assert time.process_time() - started < 10  # far less; one object for each token and copy takes minutes
    tokens = header.metadata["tokens"]
    assert isinstance(tokens, list)
    assert (len(tokens), tokens[-1]) == (count, f"tok{count - 1}")


def test_a_vocabulary_stays_in_the_file_until_it_is_asked_for(tmp_path: Path):
    path = _vocabulary(tmp_path / "vocabulary.gguf", 30_000)
    tracemalloc.start()
    read_header(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 300_000  # its window of 64 KiB and little else; the strings alone are 500 kB


def test_strings_may_cross_the_window(tmp_path: Path):
    # Lengths around the window's size, so that a length, a character and an end each fall on its edge.
    texts = ["é" * (2**15 + shift) for shift in range(-12, 12)] + ["x" * (2**16 - 9), "", "ü" * 2**17]
    path = tmp_path / "long.gguf"
    path.write_bytes(raw.file([raw.array("texts", raw.STRING, len(texts), b"".join(map(raw.string, texts)))]))
    assert read_header(path).metadata["texts"] == texts


def test_alignment_moves_the_data(tmp_path: Path):
    path = tmp_path / "aligned.gguf"
    alignment = raw.entry("general.alignment", raw.UINT32, struct.pack("<I", 128))
    tensors = [raw.tensor("a", (3,), raw.F32, 0), raw.tensor("b", (1,), raw.F32, 128)]
    path.write_bytes(raw.file([alignment], tensors, bytes(128) + b"abcd", alignment=128))
    header = read_header(path)
    assert header.tensors[1].offset % 128 == 0
    with tensor_bytes(header, header.tensors[1]) as view:
        assert bytes(view) == b"abcd"


def _number(value: int) -> bytes:
    return struct.pack("<I", value)


MALFORMED = {
    "empty": (b"", "is empty"),
    "three bytes": (b"GGU", "not a GGUF file"),
    "a web page": (b"<!DOCTYPE html>", "not a GGUF file: it begins with b'<!DO'"),
    "a zip archive": (raw.file(magic=b"PK\3\4"), "not a GGUF file"),
    "only the magic": (b"GGUF", "ends inside the version"),
    "version 1": (raw.file(version=1), "version 1 is not supported"),
    "version 4": (raw.file(version=4), "version 4 is not supported"),
    "big-endian": (raw.file(version=3 << 24), "big-endian"),
    "no counts": (raw.file()[:12], "ends inside the number of tensors"),
    "2^63 keys": (raw.file(keys=2**63), "metadata keys are announced"),
    "2^64-1 tensors": (raw.file(tensor_count=2**64 - 1), "tensors are announced"),
    "one key more than there is": (
        raw.file([raw.NAME], keys=2, alignment=1),
        "ends inside the length of the name of metadata key 1",
    ),
    "key longer than the file": (
        raw.file([struct.pack("<Q", 2**63) + b"x" * 32]),
        "key 0 is 9,223,372,036,854,775,808",
    ),
    "empty key": (raw.file([raw.entry("", raw.UINT32, _number(1))]), "key 0 is empty"),
    "key with an escape sequence": (raw.file([raw.entry("a\x1b[2J", raw.UINT32, _number(1))]), "not printable"),
    "key that is not UTF-8": (raw.file([raw.entry(b"\xff\xfe", raw.UINT32, _number(1))]), "not valid UTF-8"),
    "key twice": (raw.file([raw.NAME, raw.NAME]), "'general.architecture' occurs twice"),
    "unknown value type": (raw.file([raw.entry("k", 13, _number(1))]), "the value of 'k' has the unknown type 13"),
    "value cut off": (raw.file([raw.entry("k", 10, b"1234")], alignment=1), "ends inside the value of 'k'"),
    "string longer than the file": (
        raw.file([raw.entry("k", raw.STRING, raw.string("abc", length=4000))]),
        "ends inside the value of 'k'",
    ),
    "string longer than the limit": (
        raw.file([raw.entry("k", raw.STRING, raw.string("abc", length=2**40))]),
        "the value of 'k' is 1,099,511,627,776 bytes long",
    ),
    "string that is not UTF-8": (
        raw.file([raw.entry("k", raw.STRING, raw.string(b"\xc3("))]),
        "'k' is not valid UTF-8",
    ),
    "array of arrays": (raw.file([raw.array("k", raw.ARRAY, 1, b"\0" * 12)]), "array of arrays"),
    "array of unknown type": (raw.file([raw.array("k", 99, 1, b"\0" * 12)]), "elements of 'k' has the unknown type 99"),
    "array longer than the file": (raw.file([raw.array("k", raw.UINT32, 2**62, b"")]), "announces 4,611,686"),
    "array of more strings than the file holds": (
        raw.file([raw.array("k", raw.STRING, 9, b"\0" * 64)], alignment=1),
        "announces 9 elements",
    ),
    "array whose string runs out": (
        raw.file([raw.array("k", raw.STRING, 2, raw.string("abc") + raw.string("de", length=500))]),
        "ends inside an element of 'k'",
    ),
    "array with a string that is not UTF-8": (
        raw.file([raw.array("k", raw.STRING, 2, raw.string("ok") + raw.string(b"\xff"))]),
        "an element of 'k' is not valid UTF-8",
    ),
    "alignment 0": (raw.file([raw.entry("general.alignment", raw.UINT32, _number(0))]), "is 0, not a power of two"),
    "alignment 48": (raw.file([raw.entry("general.alignment", raw.UINT32, _number(48))]), "is 48, not a power"),
    "alignment 2^31": (
        raw.file([raw.entry("general.alignment", raw.UINT32, _number(2**31))]),
        "not a power of two up to",
    ),
    "alignment that is a string": (
        raw.file([raw.entry("general.alignment", raw.STRING, raw.string("32"))]),
        "of type STRING, not UINT32",
    ),
    "tensor without a name": (raw.file([], [raw.tensor("", (4,), raw.F32, 0)], bytes(16)), "tensor 0 is empty"),
    "tensor with a long name": (raw.file([], [raw.tensor("x" * 64, (4,), raw.F32, 0)], bytes(16)), "64 bytes long"),
    "tensor with a line in its name": (
        raw.file([], [raw.tensor("a\nb", (4,), raw.F32, 0)], bytes(16)),
        "not printable",
    ),
    "tensor twice": (
        raw.file([], [raw.tensor("a", (8,), raw.F32, 0), raw.tensor("a", (8,), raw.F32, 32)], bytes(64)),
        "tensor 'a' occurs twice",
    ),
    "five dimensions": (raw.file([], [raw.tensor("a", (1,) * 5, raw.F32, 0)], bytes(16)), "5 dimensions"),
    "2^32-1 dimensions": (raw.file([], [raw.tensor("a", (1,), raw.F32, 0, 2**32 - 1)], bytes(16)), "dimensions"),
    "shape beyond 2^63": (raw.file([], [raw.tensor("a", (2**32, 2**32), raw.F32, 0)], bytes(16)), "impossible shape"),
    "shape beyond 2^63 behind a zero": (
        raw.file([], [raw.tensor("a", (0, 2**40, 2**40), raw.F32, 0)], bytes(16)),
        "impossible shape",
    ),
    "negative extent": (raw.file([], [raw.tensor("a", (2**64 - 4,), raw.F32, 0)], bytes(16)), "impossible shape"),
    "unknown tensor type": (raw.file([], [raw.tensor("a", (4,), 43, 0)], bytes(16)), "unknown type 43"),
    "tensor type that ggml gave up": (raw.file([], [raw.tensor("a", (4,), 31, 0)], bytes(16)), "unknown type 31"),
    "row that its blocks do not divide": (
        raw.file([], [raw.tensor("a", (255,), raw.Q4_K, 0)], bytes(144)),
        "rows of 255 elements, not a multiple of Q4_K's block of 256",
    ),
    "data missing": (raw.file([], [raw.tensor("a", (8,), raw.F32, 0)]), "incomplete: tensor 'a' ends at byte"),
    "data one byte short": (raw.GOOD[:-1], "incomplete: tensor 'b.weight'"),
    "tensor before its place": (
        raw.file([], [raw.tensor("a", (8,), raw.F32, 0), raw.tensor("b", (8,), raw.F32, 0)], bytes(64)),
        "tensor 'b' lies at offset 0 of the data, expected 32",
    ),
    "tensor behind a gap": (raw.file([], [raw.tensor("a", (8,), raw.F32, 32)], bytes(64)), "expected 0"),
    "offset 2^64-1": (raw.file([], [raw.tensor("a", (8,), raw.F32, 2**64 - 1)], bytes(64)), "expected 0"),
}


@pytest.mark.fault
@pytest.mark.parametrize("content", MALFORMED)
def test_malformed_files_are_refused_by_name_and_place(content: str, tmp_path: Path):
    path = tmp_path / "model.gguf"
    path.write_bytes(MALFORMED[content][0])
    with pytest.raises(GgufFileError, match=MALFORMED[content][1]) as caught:
        read_header(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_the_good_file_behind_the_bad_ones_is_read(tmp_path: Path):
    path = tmp_path / "model.gguf"
    path.write_bytes(raw.GOOD)
    header = read_header(path)
    assert dict(header.metadata) == {"general.architecture": "llama", "llama.block_count": 1, "tokens": ["a", "é"]}
    assert [(tensor.name, tensor.shape, tensor.type) for tensor in header.tensors] == [
        ("a.weight", (4, 2), TensorType.F32),
        ("b.weight", (3,), TensorType.F16),
    ]


@pytest.mark.fault
def test_what_is_no_file_is_refused_at_once(tmp_path: Path):
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)
    loop = tmp_path / "loop.gguf"
    loop.symlink_to(loop)
    cases = {pipe: "regular file", tmp_path: "folder", tmp_path / "no.gguf": "no such file", loop: "cannot open"}
    cases |= {Path("/dev/zero"): "regular file", tmp_path / "\0": "cannot open"}
    for path, reason in cases.items():
        with pytest.raises(GgufFileError, match=reason):
            read_header(path)


@pytest.mark.fault
def test_a_sparse_terabyte_of_zeros_is_refused_fast_and_in_little_memory(tmp_path: Path):
    path = tmp_path / "sparse.gguf"
    strings = raw.array("k", raw.STRING, MAX_ARRAY_STRINGS, b"")
    path.write_bytes(raw.file([raw.NAME, strings], keys=3, alignment=1))
    os.truncate(path, 1 << 40)
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(GgufFileError, match="key 2 is empty"):
        read_header(path)
    assert time.process_time() - started < 20  # reading all of it would take minutes
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10


def test_a_file_that_changes_under_us_is_noticed(tmp_path: Path):
    path = tmp_path / "model.gguf"
    path.write_bytes(raw.GOOD)
    header = read_header(path)
    path.write_bytes(raw.GOOD[:-8])
    with pytest.raises(GgufFileError, match="has changed"):
        header.metadata["tokens"]
    with pytest.raises(GgufFileError, match="has changed"), tensor_bytes(header, header.tensors[0]):
        pass


def _mutated(draw: st.DrawFn) -> bytes:
    content = bytearray(raw.GOOD)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(content) - 1))
        match draw(st.sampled_from(["byte", "number", "cut", "insert", "delete"])):
            case "byte":
                content[place] = draw(st.integers(0, 255))
            case "number":
                value = draw(st.sampled_from([0, 1, 2, 7, 8, 9, 31, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1]))
                content[place : place + 8] = struct.pack("<Q", value)
            case "cut":
                del content[max(place, 1) :]
            case "insert":
                content[place:place] = draw(st.binary(max_size=16))
            case "delete":
                del content[place : place + draw(st.integers(1, 16))]
        if not content:
            break
    return bytes(content)


mutants = st.composite(_mutated)()


@pytest.mark.fault
@settings(max_examples=500, deadline=1000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutants)
@example(b"")
def test_mutants_are_read_or_refused_and_nothing_else(tmp_path: Path, content: bytes):
    path = tmp_path / "mutant.gguf"
    path.write_bytes(content)
    with contextlib.suppress(GgufFileError):
        header = read_header(path)
        for key in header.metadata:
            assert header.metadata[key] is not None
        for tensor in header.tensors:
            with tensor_bytes(header, tensor) as view:
                assert len(view) == tensor.size


class _InitParams(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


@pytest.mark.fault
@pytest.mark.oracle
@pytest.mark.engine
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutants)
def test_we_accept_nothing_that_llama_cpp_refuses(tmp_path: Path, content: bytes):
    path = tmp_path / "mutant.gguf"
    path.write_bytes(content)
    try:
        ours = read_header(path)
    except GgufFileError:
        return
    library = ctypes.CDLL(str(find().library("ggml-base")))
    library.gguf_init_from_file.restype = ctypes.c_void_p
    library.gguf_init_from_file.argtypes = [ctypes.c_char_p, _InitParams]
    library.gguf_get_data_offset.restype = ctypes.c_size_t
    library.gguf_get_data_offset.argtypes = library.gguf_free.argtypes = [ctypes.c_void_p]
    theirs = library.gguf_init_from_file(str(path).encode(), _InitParams(True, None))
    assert theirs
    assert library.gguf_get_data_offset(theirs) == ours.data_offset
    library.gguf_free(theirs)


def test_value_types_have_the_numbers_of_the_gguf_package():
    assert {kind.name: kind.value for kind in ValueType} == {kind.name: kind.value for kind in gguf.GGUFValueType}


def test_an_error_while_a_tensor_is_mapped_is_not_hidden_by_arrays_over_it(tmp_path: Path):
    header = read_header(tiny_gguf.write_model(tmp_path / "model.gguf"))

    def fail_with_an_array() -> None:
        with tensor_bytes(header, header.tensors[0]) as content:
            held = np.frombuffer(content, np.uint8)
            raise OSError(errno.ENOSPC, f"no room for {held.size} bytes")

    with pytest.raises(OSError, match="no room for"):
        fail_with_an_array()
