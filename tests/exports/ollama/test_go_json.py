"""JSON as Go writes it; the expected texts are what its documentation and encode.go say."""

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggufkit.exports.ollama.go_json import Float32, encode, marshal, shortest_float32, sorted_map


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (-7, "-7"),
        ("", '""'),
        ("<a href='x'>&</a>", "\"\\u003ca href='x'\\u003e\\u0026\\u003c/a\\u003e\""),
        ('"\\/', '"\\"\\\\/"'),
        ("\b\f\n\r\t", '"\\b\\f\\n\\r\\t"'),
        ("\x00\x1f\x7f", '"\\u0000\\u001f\x7f"'),
        ("a\u2028b\u2029", '"a\\u2028b\\u2029"'),
        ("é漢🙂", '"é漢🙂"'),
        ("\ud83d", '"\\ufffd"'),
        ([1, "x", []], '[1,"x",[]]'),
        ({"b": 1, "a": {}}, '{"b":1,"a":{}}'),
        (0.0, "0"),
        (-0.0, "-0"),
        (1.0, "1"),
        (0.1, "0.1"),
        (100.0, "100"),
        (1.5e10, "15000000000"),
        (0.000001, "0.000001"),
        (0.0000001, "1e-7"),
        (1.25e-9, "1.25e-9"),
        (1e-10, "1e-10"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (-1.5e300, "-1.5e+300"),
        (Float32(0.7), "0.7"),
        (Float32(struct.unpack("<f", struct.pack("<f", 0.7))[0]), "0.7"),
        (Float32(16777216.0), "16777216"),
        (Float32(1e-6), "0.000001"),  # which is a little less in 32 bits
        (Float32(9.9e-7), "9.9e-7"),
        (Float32(1e-7), "1e-7"),
    ],
)
def test_values_are_written_as_go_does(value: object, text: str):
    assert marshal(value) == text
    assert encode(value) == text.encode() + b"\n"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_number_is_read_back_as_itself(value: float):
    assert float(marshal(value)) == value


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_number_of_32_bits_is_written_with_the_fewest_digits(value: float):
    text = shortest_float32(value)
    assert struct.pack("<f", float(text)) == struct.pack("<f", value)
    digits = len(text.lower().partition("e")[0].replace(".", "").replace("-", "").strip("0"))
    if digits > 1:
        assert struct.pack("<f", float(f"{value:.{digits - 1}g}")) != struct.pack("<f", value)


@given(st.text())
def test_any_text_is_read_back_as_itself(text: str):
    assert json.loads(marshal(text)) == text


def test_keys_of_maps_are_sorted_by_bytes():
    assert list(sorted_map({"b": 1, "a": 2, "é": 3, "B": 4})) == ["B", "a", "b", "é"]


def test_numbers_that_json_has_not_are_refused():
    with pytest.raises(ValueError, match="JSON has no number"):
        marshal(float("inf"))
