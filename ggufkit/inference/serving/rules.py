"""What may pass the gate: pure decisions about a request's head and body.

A browser is turned by any web page against servers on its user's machine: by requests that carry the page's `Origin`,
or under a name that the page's owner made to mean this machine (`Host`). llama-server answers both.
"""

import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ggufkit.llamacpp.grammar_text import fault_of
from ggufkit.llamacpp.schema_text import fault_of_schema

MOST_BODY_BYTES = 32 << 20
_DEEPEST = 64
_LONGEST_TARGET = 4096  # llama-server ends the connection for 8190
_LONGEST_GRAMMAR = 1 << 20
# llama.cpp allocates as much as they say, and clears it, for each request.
_LOOKS_BACK, _MOST_LOOKED_BACK = ("repeat_last_n", "dry_penalty_last_n"), 1 << 20
# It keeps the likeliest tokens beside every token until the answer is whole, each in half a kilobyte.
_MOST_LIKELIEST = 1 << 17
_LIKELIEST = ("n_probs", "logprobs", "top_logprobs")
_TOKENS = ("n_predict", "max_tokens", "max_completion_tokens", "max_output_tokens")
_USUAL_TOKENS = 4096  # of an answer that nobody limits
_MOST_SAMPLERS = 64
_MOST_STOPS = 256
_LONGEST_STOP = 4096
_PUBLIC = {"/health", "/v1/health"}
_LOCAL_NAMES = {"localhost", "127.0.0.1", "[::1]", "::1"}
_METHODS = {"GET", "HEAD", "POST", "OPTIONS", "DELETE"}
# A string that does not end is taken as a whole too: else each quote in it would be tried as a beginning.
_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)
# What llama-server says when computing failed (server-context.cpp), not reading the request.
_OWN_FAILURE = re.compile(r"compute error|failed to decode|out of memory|bad_alloc|slot|unknown error", re.IGNORECASE)
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request goes no further, in the words of OpenAI's error objects."""

    status: int
    kind: str
    message: str
    headers: tuple[tuple[str, str], ...] = ()

    def body(self) -> bytes:
        """Return the answer."""
        error = {"message": self.message, "type": self.kind, "code": self.status}
        return json.dumps({"error": error}).encode()


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of a request; names of headers in lower case, the last of several with one name counts."""

    method: str
    target: str
    headers: Mapping[str, str]

    @property
    def path(self) -> str:
        """Return the target without its query."""
        return self.target.partition("?")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Who may come in.

    Attributes:
        keys: any of them opens; none: no key is needed.
        is_local: only this machine can connect, so only names of this machine make sense in `Host`.
        hosts: further names that are fine.
        origins: web sites whose pages may ask.
        public: paths besides those of health that need no key.
    """

    keys: tuple[str, ...] = ()
    is_local: bool = True
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    public: frozenset[str] = frozenset()

    def refuse(self, head: Head) -> Refusal | None:
        """Return why a request must not pass, judged by its head; None when it may."""
        if head.method not in _METHODS:
            return Refusal(405, "invalid_request_error", f"the method {head.method} is not used here")
        if not head.target.startswith("/"):
            return Refusal(400, "invalid_request_error", "the target of the request must begin with /")
        if len(head.target) > _LONGEST_TARGET:
            return Refusal(414, "invalid_request_error", f"the target may have {_LONGEST_TARGET} characters")
        host = head.headers.get("host", "")
        if self.is_local and _name(host) not in {*_LOCAL_NAMES, *self.hosts}:
            return Refusal(403, "permission_error", "this server is not known by that Host (see --allow-host)")
        origin = head.headers.get("origin")
        if origin is not None and not self.allows(origin, host):
            return Refusal(403, "permission_error", "pages of that Origin may not use this server (--allow-origin)")
        if head.method == "OPTIONS" or head.path in _PUBLIC or head.path in self.public:
            return None
        if self.keys and not self._has_key(head.headers):
            challenge = (("WWW-Authenticate", "Bearer"),)
            return Refusal(401, "authentication_error", "Invalid API Key", challenge)
        return None

    def allows(self, origin: str, host: str) -> bool:
        """Tell whether pages of a web site may ask: our own page's, and those that were named."""
        same = host != "" and origin.lower() in {f"http://{host}".lower(), f"https://{host}".lower()}
        return same or origin in self.origins or "*" in self.origins

    def _has_key(self, headers: Mapping[str, str]) -> bool:
        given = headers.get("authorization") or headers.get("x-api-key") or ""
        scheme, _, rest = given.partition(" ")
        given = rest.strip() if scheme.lower() == "bearer" else given
        data = given.encode("utf-8", "surrogateescape")
        # All are compared, each in a time that does not tell how much of it was right.
        return sum(hmac.compare_digest(data, key.encode()) for key in self.keys) > 0


def refuse_body(head: Head, body: bytes) -> Refusal | None:
    """Return why the body of a POST must not pass: what is no JSON object, and what llama-server is known to die of."""
    kind = head.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        return Refusal(
            415, "invalid_request_error", "the body must be JSON: add the header Content-Type: application/json"
        )
    if _is_deeper(body, _DEEPEST):
        return _bad(f"the body is nested deeper than {_DEEPEST} levels")
    try:
        text = body.decode("utf-8")
        document = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except UnicodeDecodeError as error:
        return _bad(f"the body is not UTF-8 (byte {error.start})")
    except (ValueError, RecursionError) as error:
        return _bad(f"the body is not JSON: {error}")
    if not isinstance(document, dict | list):
        return _bad("the body must be a JSON object")
    if "\\u" in text and _has_surrogate(document):
        return _bad("the body holds half a character (a lone surrogate)")
    return _refuse_fields(document) if isinstance(document, dict) else None


def blame(status: int, body: bytes) -> Refusal | None:
    """Return the refusal that an answer of llama-server's with status 500 or 501 should have been.

    It answers so what its parsers throw at values of the wrong kind, and clients repeat what was answered so. None
    where it is the server's own failure.
    """
    if status not in {500, 501}:
        return None
    try:
        message = json.loads(body)["error"]["message"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    if not isinstance(message, str) or (status == 500 and _OWN_FAILURE.search(message)):
        return None
    return Refusal(400, "not_supported_error" if status == 501 else "invalid_request_error", message)


def _refuse_fields(document: dict[str, Any]) -> Refusal | None:
    grammar = document.get("grammar")
    if isinstance(grammar, str) and len(grammar) > _LONGEST_GRAMMAR:
        return _bad(f"a grammar may have {_LONGEST_GRAMMAR} characters")
    if isinstance(grammar, str) and (fault := fault_of(grammar)):
        return _bad(f"the grammar {fault}")
    for schema in schemas_of(document):
        if fault := fault_of_schema(schema):
            return _bad(f"the JSON schema {fault}")
    for name in _LOOKS_BACK:
        value = document.get(name)
        if isinstance(value, int | float) and value > _MOST_LOOKED_BACK:
            return _bad(f"{name} may be {_MOST_LOOKED_BACK}; -1 is the whole context")
    if (likeliest := _likeliest(document)) > _MOST_LIKELIEST:
        return _bad(
            f"that asks for the probabilities of {likeliest:,.0f} tokens; at most {_MOST_LIKELIEST:,}:"
            " lower max_tokens, logprobs, or the number of prompts"
        )
    samplers = document.get("samplers")
    if isinstance(samplers, list | str) and len(samplers) > _MOST_SAMPLERS:
        return _bad(f"{len(samplers)} samplers are too many; at most {_MOST_SAMPLERS}")
    stops = document.get("stop")
    if isinstance(stops, list) and len(stops) > _MOST_STOPS:
        return _bad(f"{len(stops)} stop strings are too many; at most {_MOST_STOPS}")
    if any(
        isinstance(stop, str) and len(stop) > _LONGEST_STOP for stop in (stops if isinstance(stops, list) else [stops])
    ):
        return _bad(f"a stop string may have {_LONGEST_STOP} characters")
    return None


def schemas_of(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List what holds the JSON schemas of a request that llama-server makes grammars of: of the reply, and of tools."""
    tools = document.get("tools")
    places = [document.get("json_schema"), *_formats(document), *(tools if isinstance(tools, list) else [])]
    return [place for place in places if isinstance(place, dict)]


def schemas_of_reply(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the schemas themselves that the whole reply is to follow."""
    found = [document.get("json_schema")]
    for place in _formats(document):
        if isinstance(place, dict) and place.get("type") != "text":
            inner = place.get("json_schema")
            found += [place.get("schema"), inner.get("schema") if isinstance(inner, dict) else None]
    return [schema for schema in found if isinstance(schema, dict)]


def _formats(document: Mapping[str, Any]) -> tuple[Any, Any]:
    text = document.get("text")
    return document.get("response_format"), text.get("format") if isinstance(text, dict) else None  # of /v1/responses


def _likeliest(document: Mapping[str, Any]) -> float:
    """Return how many probabilities an answer may hold, of all its prompts and choices."""
    probabilities = max((_count(document.get(name)) for name in _LIKELIEST), default=0.0)
    tokens = max((_count(document.get(name)) for name in _TOKENS), default=0.0) or _USUAL_TOKENS
    choices = max(1.0, _count(document.get("n")), _count(document.get("n_cmpl")))
    prompt, prompts = document.get("prompt"), 1
    # A list of numbers, or of numbers and texts, is one prompt.
    if isinstance(prompt, list) and not any(isinstance(part, int | float) for part in prompt):
        prompts = max(1, len(prompt))
    return probabilities * tokens * choices * prompts


def _count(value: Any) -> float:
    """Return a number that says how many; what is none says nothing, and less than none that there is no limit."""
    return float(min(max(0, value), 1 << 62)) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def _is_deeper(body: bytes, limit: int) -> bool:
    depth = 0
    for found in _STRUCTURE.finditer(body):
        mark = found[0][:1]
        if mark in b"[{":
            depth += 1
            if depth > limit:
                return True
        elif mark in b"]}":
            depth -= 1
    return False


def _has_surrogate(value: Any) -> bool:
    if isinstance(value, str):
        return _SURROGATE.search(value) is not None
    if isinstance(value, dict):
        return any(_has_surrogate(part) for pair in value.items() for part in pair)
    return isinstance(value, list) and any(_has_surrogate(part) for part in value)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if number in {float("inf"), float("-inf")}:
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def _name(host: str) -> str:
    """Return a `Host` without its port."""
    name, separator, port = host.rpartition(":")
    return (name if separator and (port.isdecimal() or not port) else host).lower()


def _bad(message: str) -> Refusal:
    return Refusal(400, "invalid_request_error", message)
