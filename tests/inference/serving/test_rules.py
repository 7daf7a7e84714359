"""Who may pass the gate, and with what."""

import json
from pathlib import Path

import pytest

from ggufkit.errors import InputError, UsageError
from ggufkit.inference.serving import ServeOptions
from ggufkit.inference.serving.options import read_keys
from ggufkit.inference.serving.rules import Head, Rules, blame, refuse_body

JSON = {"content-type": "application/json"}


def head(method: str = "GET", target: str = "/v1/models", **headers: str) -> Head:
    return Head(
        method, target, {"host": "localhost:8080", **{name.replace("_", "-"): headers[name] for name in headers}}
    )


def status(rules: Rules, request: Head) -> int | None:
    refusal = rules.refuse(request)
    return refusal.status if refusal else None


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost:8080", None),
        ("127.0.0.1", None),
        ("[::1]:8080", None),
        ("LOCALHOST:1", None),
        ("evil.example:8080", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("", 403),
        ("known.lan:80", None),
    ],
)
def test_only_names_of_this_machine_are_served_when_only_it_can_connect(host: str, expected: int | None) -> None:
    assert status(Rules(hosts=("known.lan",)), head(host=host)) == expected


def test_other_machines_may_use_any_name_for_us() -> None:
    assert status(Rules(is_local=False, keys=("k",)), head(host="box.lan", authorization="Bearer k")) is None


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://localhost:8080", None),
        ("https://localhost:8080", None),
        ("http://localhost:9999", 403),
        ("http://evil.example", 403),
        ("null", 403),
        ("", 403),
        ("http://[", 403),
        ("https://friend.example", None),
    ],
)
def test_pages_of_other_sites_are_refused(origin: str, expected: int | None) -> None:
    assert status(Rules(origins=("https://friend.example",)), head("POST", origin=origin)) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 401),
        ({"authorization": "Bearer right"}, None),
        ({"authorization": "bearer also-right"}, None),
        ({"authorization": "right"}, None),
        ({"x_api_key": "right"}, None),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"authorization": "Bearer rightt"}, 401),
        ({"authorization": "Bearer \xff\xfe"}, 401),
    ],
)
def test_a_key_opens(headers: dict[str, str], expected: int | None) -> None:
    assert status(Rules(keys=("right", "also-right")), head(**headers)) == expected


def test_health_and_the_page_need_no_key() -> None:
    rules = Rules(keys=("right",), public=frozenset({"/"}))
    assert [status(rules, head(target=target)) for target in ("/health", "/?x=1", "/metrics")] == [None, None, 401]


def test_odd_methods_and_targets_are_refused() -> None:
    requests = [head("BREW"), head(target="http://other/"), head(target="/" + "a" * 5000)]
    assert [status(Rules(), request) for request in requests] == [405, 400, 414]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b'{"a": ', "not JSON"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": 1e999}', "too large"),
        (b'"text"', "object"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b"[" * 100_000, "nested"),
        (b'{"a": "[[[' + b"[" * 100 + b'"}' + b"}", "not JSON"),
        (b'"' + b'\\"' * 2_000_000, "not JSON"),
        (json.dumps({"grammar": "root ::= " + "(" * 60_000}).encode(), "grammar"),
        (json.dumps({"grammar": 'root ::= "a"' * 200_000}).encode(), "grammar"),
        (json.dumps({"grammar": 'root ::= "a"{3,2}'}).encode(), "at least 3 and at most 2"),
        (json.dumps({"grammar": 'root ::= ("a"?){1,1000}'}).encode(), "1,000 ways"),
        (json.dumps({"json_schema": {"type": "string", "minLength": 3, "maxLength": 2}}).encode(), "minLength 3"),
        (
            json.dumps({"response_format": {"json_schema": {"schema": {"items": {"minItems": 2, "maxItems": 1}}}}}),
            "minItems 2",
        ),
        (json.dumps({"text": {"format": {"schema": {"minimum": 2, "maximum": 1}}}}).encode(), "minimum 2"),
        (
            json.dumps(
                {"tools": [{"function": {"parameters": {"properties": {"a": {"minLength": 2, "maxLength": 1}}}}}]}
            ),
            "minLength 2",
        ),
        (json.dumps({"stop": ["x"] * 1_000_000}).encode(), "stop"),
        (b'{"dry_penalty_last_n": 2147483647}', "dry_penalty_last_n"),
        (b'{"samplers": [' + b'"top_k",' * 1000 + b'"top_k"]}', "samplers"),
        (b'{"prompt": "a", "logprobs": 2147483647}', "probabilities of 8,"),
        (b'{"prompt": "a", "n_probs": ' + b"9" * 400 + b', "n_predict": 4}', "probabilities"),
        (b'{"prompt": "a", "n_probs": 20, "n_predict": 4096, "n": 2}', "probabilities of 163,840"),
        (json.dumps({"prompt": ["a"] * 1000, "logprobs": 5, "max_tokens": 100}).encode(), "probabilities of 500,000"),
        (b'{"messages": [], "top_logprobs": 2000, "max_completion_tokens": 100}', "probabilities of 200,000"),
    ],
)
def test_what_is_no_sound_json_is_refused_with_a_reason(body: bytes | str, words: str) -> None:
    refusal = refuse_body(head("POST", **JSON), body.encode() if isinstance(body, str) else body)
    assert refusal is not None
    assert refusal.status == 400
    assert words in refusal.message
    assert json.loads(refusal.body())["error"]["code"] == 400


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "[[[[" * 100},
        {"prompt": "\U0001f600"},
        {"prompt": 'a "quoted" \\ [text'},
        {"stop": ["a", "b"]},
        {"json_schema": {"properties": {"minimum": {"type": "integer"}, "maximum": {"minimum": 1, "maximum": 1}}}},
        {"grammar": 'root ::= "{3,2}" [{3,2}] # {3,2}'},
        {"stop": None, "grammar": 'root ::= ("a" | "b")*'},
        {"messages": [], "logprobs": True, "top_logprobs": 20},
        {"prompt": list(range(1000)), "logprobs": 5},
        {"prompt": ["a"] * 1000, "max_tokens": 100},
        {"prompt": "a", "n_probs": 128_000, "n_predict": 1},
        {"prompt": "a", "logprobs": -1, "n": None, "max_tokens": 10**400},
    ],
)
def test_sound_bodies_pass(body: dict[str, object]) -> None:
    assert refuse_body(head("POST", **JSON), json.dumps(body).encode()) is None


def test_a_body_must_call_itself_json() -> None:
    refusal = refuse_body(head("POST", content_type="text/plain"), b"{}")
    assert refusal is not None
    assert refusal.status == 415


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (500, "[json.exception.type_error.302] type must be string, but is array", 400),
        (501, "Infill is not supported by this model", 400),
        (500, "Compute error.", None),
        (503, "Loading model", None),
    ],
)
def test_llama_server_blames_itself_for_what_clients_send(status: int, message: str, expected: int | None) -> None:
    refusal = blame(status, json.dumps({"error": {"message": message}}).encode())
    assert (refusal.status if refusal else None) == expected


def test_an_answer_that_is_no_json_stays() -> None:
    assert blame(500, b"<html>") is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "box.lan"])
def test_other_machines_are_let_in_only_with_a_key(host: str) -> None:
    with pytest.raises(UsageError, match="key"):
        ServeOptions(host=host)
    assert ServeOptions(host=host, keys=("k",)).host == host


def test_a_key_does_not_show() -> None:
    assert "secret" not in repr(ServeOptions(keys=("secret",)))


def test_keys_are_read_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\n first \n\nsecond\n")
    assert read_keys(file) == ("first", "second")


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"a key\n", "clé".encode(), b"\xff"])
def test_a_file_without_a_usable_key_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(InputError):
        read_keys(file)


def test_a_key_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGUFKIT_API_KEY", "secret")
    assert read_keys(None) == ("secret",)
    monkeypatch.delenv("GGUFKIT_API_KEY")
    assert read_keys(None) == ()
