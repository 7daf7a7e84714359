"""Small files of ours that somebody or a disk has damaged: states, journals, recipes, matrices, profiles, sessions."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from soak.small_files import KINDS

from ggufkit.errors import GgufkitError, InputError, UsageError

CALM = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
# What may stand in place of something else: JSON's own marks, odd numbers, bytes that are no text.
PIECES = (
    b"",
    b"null",
    b"{}",
    b"[]",
    b'""',
    b"-1",
    b"1e999",
    b"NaN",
    b"9" * 5000,
    b"\xff",
    b"\0",
    b'"\\ud800"',
    b"[" * 3000,
)


@pytest.mark.parametrize("name", sorted(KINDS))
@CALM
@given(data=st.data())
def test_damaged_bytes_are_read_or_refused_in_one_line(name: str, tmp_path: Path, data: st.DataObject):
    good, read = KINDS[name]
    path = tmp_path / name
    content = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content)))
        piece = data.draw(st.sampled_from(PIECES) | st.binary(max_size=8))
        content[place : place + data.draw(st.integers(0, 9))] = piece
    path.write_bytes(content)
    with contextlib.suppress(InputError, UsageError):  # exit codes 3 and 2; whatever else comes is a bug
        read(path)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_what_is_no_such_file_at_all_is_refused_or_forgotten(name: str, tmp_path: Path):
    _, read = KINDS[name]
    for content in (b"", b"\0" * 64, b"<!DOCTYPE html><html></html>", b"GGUF", b"{", b"[]", b"null", b"[" * 100_000):
        path = tmp_path / name
        path.write_bytes(content)
        with contextlib.suppress(GgufkitError):
            read(path)
