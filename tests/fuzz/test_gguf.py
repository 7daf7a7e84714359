"""GGUF files that nobody wrote: whatever hypothesis makes of one is read or refused in one line, and nothing else."""

import random
from pathlib import Path

import gguf_mutants
import pytest
import raw_gguf
from gguf_reference import Reference
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from soak.gguf_files import look

CALM = settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "model.gguf"


def told_in_one_line(path: Path, content: bytes) -> str | None:
    path.write_bytes(content)
    refused = look(path)
    assert refused is None or (refused.isprintable() and str(path) in refused)
    return refused


@CALM
@given(st.binary(max_size=200))
@example(b"")
@example(b"GGUF")
def test_bytes_behind_the_magic(path: Path, content: bytes):
    told_in_one_line(path, b"GGUF\3\0\0\0" + content)


@CALM
@given(st.data())
def test_a_good_file_with_bytes_changed(path: Path, data: st.DataObject):
    content = bytearray(raw_gguf.GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content)))
        piece = data.draw(st.sampled_from((b"", b"\xff" * 8, b"\0" * 8, b"\1", bytes(4))) | st.binary(max_size=8))
        content[place : place + data.draw(st.integers(0, 9))] = piece
    told_in_one_line(path, bytes(content))


@CALM
@given(st.integers(0, len(raw_gguf.GOOD) - 1))
def test_a_file_that_ends_early_is_refused(path: Path, length: int):
    assert told_in_one_line(path, raw_gguf.GOOD[:length])


@pytest.mark.engine
def test_files_that_are_made_up_are_read_by_both(path: Path):
    with Reference() as reference:
        for seed in range(30):
            content = b"".join(field.content for field in gguf_mutants.fields(random.Random(seed)))
            path.write_bytes(content)
            if reference.accepts(path):
                assert look(path) is None
        assert not reference.died
