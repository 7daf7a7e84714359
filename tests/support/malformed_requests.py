"""Requests that a server must survive, made from a seed: wrong JSON, wrong values in right JSON, and no HTTP at all."""

import json
import random
import socket
from collections.abc import Iterator

_CHAT = {"messages": [{"role": "user", "content": "What is 1 + 2?"}], "max_tokens": 4, "temperature": 0}
_BODIES = {
    "/v1/chat/completions": _CHAT,
    "/v1/completions": {"prompt": "1 + 2 =", "max_tokens": 4},
    "/completion": {"prompt": "1 + 2 =", "n_predict": 4},
    "/v1/embeddings": {"input": "text"},
    "/tokenize": {"content": "text"},
    "/detokenize": {"tokens": [1, 2, 3]},
    "/apply-template": {"messages": _CHAT["messages"]},
    "/v1/messages": {**_CHAT, "max_tokens": 4},
    "/v1/responses": {"input": "What is 1 + 2?", "max_output_tokens": 4},
    "/infill": {"input_prefix": "1 +", "input_suffix": "= 3", "n_predict": 4},
}
_FIELDS = [
    "messages",
    "prompt",
    "input",
    "content",
    "tokens",
    "stop",
    "grammar",
    "json_schema",
    "response_format",
    "tools",
    "tool_choice",
    "logit_bias",
    "n_probs",
    "logprobs",
    "top_logprobs",
    "n",
    "n_predict",
    "max_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "repeat_last_n",
    "dry_multiplier",
    "dry_base",
    "dry_sequence_breakers",
    "dry_penalty_last_n",
    "xtc_probability",
    "mirostat",
    "seed",
    "samplers",
    "stream",
    "stream_options",
    "cache_prompt",
    "id_slot",
    "n_keep",
    "n_discard",
    "n_cmpl",
    "lora",
    "chat_template_kwargs",
    "reasoning_format",
    "parse_tool_calls",
    "return_tokens",
    "timings_per_token",
    "t_max_predict_ms",
    "ignore_eos",
    "encoding_format",
    "add_special",
    "system",
]
_DEEP = {"type": "object", "properties": {"a": {"type": "array", "items": {"$ref": "#/properties/a"}}}}
_NOTHING = {
    "type": "object",
    "properties": {"a": {"type": "string", "minLength": 2, "maxLength": 1}},
    "required": ["a"],
}
_VALUES = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**31 - 1,
    -(2**31),
    2**53,
    2**63,
    1e308,
    -1e308,
    0.5,
    "",
    "x",
    "\0",
    "\U0001f600" * 9,
    "[",
    "root",
    [],
    [[]],
    [None],
    [0],
    [-1],
    [2**31],
    [2**40],
    ["x"],
    [{}],
    [["x", 1e9]],
    [[2**40, 1]],
    {},
    {"a": 1},
    {"1": "x"},
    {"type": "x"},
    {"type": "json_schema"},
    {"type": "json_schema", "json_schema": {"schema": _DEEP}},
    {"type": "json_object", "schema": 5},
    {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}},
    {"pattern": "((((", "type": "string"},
    [{"role": "user"}],
    [{"role": 5, "content": 5}],
    [{"role": "user", "content": None}],
    [{"content": "x"}],
    [{"role": "assistant", "content": ""}],
    [{"role": "tool", "content": "x"}],
    [{"role": "user", "content": [{"type": "x"}]}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}],
    [{"role": "user", "content": [{"type": "text", "text": 5}]}],
    [{"role": "assistant", "tool_calls": [{}]}],
    [{"type": "function"}],
    [{"type": "function", "function": {"name": "f", "parameters": {"type": "x"}}}],
    "root ::= ",
    'root ::= "a" root',
    "root ::= [",
    "root ::= a",
    'root ::= ("a"',
    'root ::= "a"{9999999999}',
    'root ::= "a"{3,2}',
    'root ::= ("a"?){1,1000}',
    f'root ::= "{"a" * 3000}"' + "{2000}",
    {"type": "string", "minLength": 3, "maxLength": 2},
    {"type": "string", "pattern": "^a{3,2}$"},
    {"type": "string", "pattern": "^(a?){1,500}$"},
    {"type": "json_schema", "json_schema": {"schema": {"items": {}, "type": "array", "minItems": 3, "maxItems": 2}}},
    [{"type": "function", "function": {"name": "f", "parameters": _NOTHING}}],
    "root ::= [^",
    "x" * 5000,
    list(range(2000)),
    ["stop"] * 1000,
    "word " * 2000,
    "\ud800",
]


def requests(count: int, seed: int) -> Iterator[bytes]:
    """Yield whole requests as they go over the wire, each for a connection of its own."""
    chance = random.Random(seed)
    for _ in range(count):
        yield chance.choice((_wrong_value, _wrong_value, _wrong_value, _wrong_json, _wrong_http))(chance)


def send(address: tuple[str, int], data: bytes, seconds: float = 30.0) -> int | None:
    """Send one and return the status of the answer; None where the server just ended the connection."""
    with socket.create_connection(address, seconds) as connection:
        answer = b""
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR) if not data.endswith(b"}") else None
            while b"\r\n" not in answer and (piece := connection.recv(4096)):
                answer += piece
        except (ConnectionError, TimeoutError):
            pass
    parts = answer.split(None, 2)
    return int(parts[1]) if len(parts) > 1 and parts[0].startswith(b"HTTP/") else None


def post(path: str, body: bytes, extra: str = "") -> bytes:
    """Write a POST of JSON."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{extra}"
    return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


def _wrong_value(chance: random.Random) -> bytes:
    path = chance.choice(list(_BODIES))
    body = dict(_BODIES[path])
    for _ in range(chance.randint(1, 2)):
        body[chance.choice([*body, *_FIELDS])] = chance.choice(_VALUES)
    if chance.random() < 0.2:
        body.pop(chance.choice(list(body)))
    return post(path, json.dumps(body).encode())


def _wrong_json(chance: random.Random) -> bytes:
    path = chance.choice(list(_BODIES))
    whole = json.dumps(_BODIES[path]).encode()
    at = chance.randrange(len(whole))
    body = chance.choice(
        [
            whole[:at],
            whole[:at] + bytes([chance.randrange(256)]) + whole[at + 1 :],
            whole + b"}",
            b"",
            b"null",
            b"[]",
            b'"x"',
            b"5",
            b'{"messages": NaN}',
            b'{"temperature": 1e999, "prompt": "x"}',
            b'{"prompt": "\\ud800"}',
            b'{"prompt": "\xff"}',
            b"[" * chance.choice([100, 10_000, 200_000]),
            b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
            b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        ]
    )
    return post(path, body)


def _wrong_http(chance: random.Random) -> bytes:
    body = json.dumps(_CHAT).encode()
    target = "/v1/chat/completions"
    return chance.choice(
        [
            chance.randbytes(chance.randint(1, 300)),
            b"GET\r\n\r\n",
            b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
            b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            b"GET /%00 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + chance.randbytes(100),
            b"BREW / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 20_000 + b"\r\n",
            post(target, body, "Transfer-Encoding: chunked\r\n"),
            post(target, body, "Content-Length: 5\r\n"),
            post(target, body).replace(b"application/json", b"text/plain"),
            post(target, body, "Origin: http://evil.example\r\n"),
            post(target, body).replace(b"Content-Length: ", b"Content-Length: -"),
            post(target, body).replace(b"Content-Length: ", b"Content-Length: 99999999999"),
            post(target, body)[: chance.randint(1, 120)],
            b"POST " + target.encode() + b" HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n" + b"zz\r\n{}\r\n0\r\n\r\n",
            post(
                chance.choice(["/slots/x?action=save", "/lora-adapters", "/props", "/models/load", "/v1/rerank"]), body
            ),
        ]
    )
