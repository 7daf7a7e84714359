"""Text that comes out of bytes piece by piece is the text of all bytes, and stops where it must."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from ggufkit.inference.text_stream import TextStream


def collect(stream: TextStream, parts: list[bytes]) -> list[str]:
    return [*(stream.feed(part) for part in parts), stream.finish()]


def test_a_character_appears_when_it_is_whole() -> None:
    parts = [bytes([byte]) for byte in "a🙂é".encode()]
    assert collect(TextStream(), parts) == ["a", "", "", "", "🙂", "", "é", ""]


def test_bytes_that_are_not_utf8_are_shown() -> None:
    assert collect(TextStream(), [b"a\xff", b"b", b"\xf0\x9f"]) == ["a\ufffd", "b", "", "\ufffd"]


@given(st.binary(max_size=40), st.lists(st.integers(0, 40)))
def test_no_cut_changes_the_text(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    parts = [data[begin:end] for begin, end in itertools.pairwise(edges)]
    assert "".join(collect(TextStream(), parts)) == data.decode("utf-8", "replace")


@given(st.text("abc", max_size=30), st.text("abc", min_size=1, max_size=4), st.lists(st.integers(0, 30)))
def test_the_text_ends_before_the_first_stop_string(text: str, stop: str, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    stream = TextStream([stop])
    parts = [text[begin:end].encode() for begin, end in itertools.pairwise(edges)]
    assert "".join(collect(stream, parts)) == text.split(stop)[0]
    assert stream.stopped_by == (stop if stop in text else None)


def test_the_earliest_of_several_stop_strings_wins() -> None:
    stream = TextStream(["xyz", "y"])
    assert collect(stream, [b"a", b"x", b"y", b"z"]) == ["a", "", "x", "", ""]
    assert stream.stopped_by == "y"


def test_half_a_stop_string_is_text_in_the_end() -> None:
    stream = TextStream(["###"])
    assert collect(stream, [b"a#", b"#"]) == ["a", "", "##"]
    assert stream.stopped_by is None
