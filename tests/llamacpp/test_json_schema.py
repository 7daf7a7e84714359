"""Grammars of JSON schemas: llama.cpp's own, and refusals that say why."""

import pytest

from ggufkit.errors import InputError
from ggufkit.llamacpp import json_schema

pytestmark = pytest.mark.engine


def test_a_schema_becomes_the_grammar_of_llama_cpp() -> None:
    grammar = json_schema.grammar('{"type": "integer", "minimum": 3, "maximum": 12}')
    assert 'root ::= ([3-9] | "1" [0-2])' in grammar.splitlines()


def test_text_of_any_alphabet_survives() -> None:
    assert "日本 🙂" in json_schema.grammar('{"enum": ["日本 🙂"]}')


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "must be an object"),
        ('{"type": "number of cats"}', "unrecognized type number of cats"),
        ('{"$ref": "#/missing"}', "cannot resolve"),
        ('{"type": "string", "minLength": 3, "maxLength": 2}', "minLength 3 above maxLength 2"),
        ('{"type": "array", "items": {"minimum": 5, "maximum": 4}}', "minimum 5 above maximum 4"),
        ('{"type": "string", "pattern": "^a{3,2}$"}', "at least 3 and at most 2"),
        ('{"type": "string", "pattern": "^(a?){1,500}$"}', "500 ways"),
        ('{"type": "string", "pattern": "^[0-9]{3}\\\\d$"}', "is not supported"),
    ],
)
def test_what_cannot_become_a_grammar_is_refused_in_one_line(schema: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        json_schema.grammar(schema)
    assert "\n" not in str(caught.value)
    assert "command:" not in str(caught.value)


def test_the_schema_that_a_hint_shows_becomes_a_grammar() -> None:
    with pytest.raises(InputError) as caught:
        json_schema.grammar("{")
    assert "name" in json_schema.grammar((caught.value.hint or "").removeprefix("such as "))
