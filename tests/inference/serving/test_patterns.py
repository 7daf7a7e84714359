"""Patterns that llama.cpp would pass over are refused where the reply itself is to follow them."""

import json
from typing import Any

import pytest

from ggufkit.inference.serving.patterns import refuse_patterns

pytestmark = pytest.mark.engine

DIGITS = {"type": "object", "properties": {"v": {"type": "string", "pattern": "^\\d{3}$"}}}
SPELLED = {"type": "object", "properties": {"v": {"type": "string", "pattern": "^[0-9]{3}$"}}}
ENDLESS = {"type": "string", "pattern": "^a{3,2}$"}


def of_reply(schema: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}}


def of_tool(schema: dict[str, Any]) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "x", "parameters": schema}}]}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (of_reply(SPELLED), None),
        (of_reply(DIGITS), "unsupported escape"),
        ({"json_schema": DIGITS}, "unsupported escape"),
        ({"text": {"format": {"type": "json_schema", "schema": DIGITS}}}, "unsupported escape"),
        (of_reply({"const": {"pattern": "\\d"}}), None),
        (of_reply({"type": "object", "properties": {"v": {"type": "string"}}, "examples": [{"pattern": "\\d"}]}), None),
        (of_reply({"type": "integer", "pattern": "\\d"}), None),
        (of_reply({"type": "string", "$defs": {"unused": DIGITS}}), None),
        ({"response_format": {"type": "text", "json_schema": {"schema": DIGITS}}}, None),
        ({"response_format": {"type": "json_object", "schema": DIGITS}}, "unsupported escape"),
        (of_tool(DIGITS), None),  # whoever is called looks at what comes
        (of_tool(DIGITS) | of_reply(DIGITS), "unsupported escape"),
        (of_reply(ENDLESS), "at least 3 and at most 2"),
        (of_tool(ENDLESS), "at least 3 and at most 2"),
    ],
)
def test_what_no_grammar_is_made_of_is_refused_in_replies(document: dict[str, Any], message: str | None) -> None:
    refusal = refuse_patterns(json.dumps(document).encode())
    if message is None:
        assert refusal is None
    else:
        assert refusal is not None
        assert refusal.status == 400
        assert message in refusal.message
