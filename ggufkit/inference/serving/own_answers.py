"""What the gate answers by itself: health, metrics, one model of the list, and the page to chat with."""

import json
from collections.abc import Mapping
from importlib import resources
from urllib.parse import unquote

from ggufkit.inference.serving.backend import Backend
from ggufkit.inference.serving.client import Local
from ggufkit.inference.serving.exchange import UpstreamError
from ggufkit.inference.serving.gate import Counts
from ggufkit.inference.serving.rules import Head, Refusal
from ggufkit.inference.supervisor import State

HEALTH = {"/health", "/v1/health"}
MODELS = "/v1/models"
PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE_HEADERS = (
    ("Cache-Control", "no-cache"),
    ("Referrer-Policy", "no-referrer"),
    ("Content-Security-Policy", _POLICY),
)


def health(main: Backend) -> Local:
    """Tell whether the model answers, in llama-server's words, and how often it had to be started again."""
    state, restarts = main.supervisor.state, main.supervisor.restarts
    if state is State.READY:
        return _json(200, {"status": "ok", "restarts": restarts})
    message = "Loading model" if state is State.LOADING else "The model is being started again"
    error = {"message": message, "type": "unavailable_error", "code": 503}
    return _json(503, {"error": error, "restarts": restarts})


async def metrics(backends: Mapping[str, Backend], counts: Counts) -> Local:
    """Return llama-server's figures, where it answers, and the gate's, as Prometheus reads them."""
    lines = [
        "# HELP ggufkit_up Whether the program answers.",
        "# TYPE ggufkit_up gauge",
        *(f'ggufkit_up{{program="{name}"}} {int(backend.is_ready)}' for name, backend in backends.items()),
        "# HELP ggufkit_restarts_total How often a program that died was started again.",
        "# TYPE ggufkit_restarts_total counter",
        *(
            f'ggufkit_restarts_total{{program="{name}"}} {backend.supervisor.restarts}'
            for name, backend in backends.items()
        ),
        "# HELP ggufkit_requests_total Requests that were answered, by status; 0: the client left.",
        "# TYPE ggufkit_requests_total counter",
        *(f'ggufkit_requests_total{{status="{code}"}} {count}' for code, count in sorted(counts.answered.items())),
        "# HELP ggufkit_requests_running Requests that are being answered, this one included.",
        "# TYPE ggufkit_requests_running gauge",
        f"ggufkit_requests_running {counts.running}",
    ]
    text = "\n".join(lines) + "\n"
    if backends["model"].is_ready:
        try:
            async with backends["model"].ask("GET", "/metrics", [], b"") as answer:
                text += b"".join([piece async for piece in answer.body]).decode("utf-8", "replace")
        except UpstreamError:
            pass  # it died just now; the figures above are there all the same
    return Local(200, (("Content-Type", "text/plain; version=0.0.4; charset=utf-8"),), text.encode())


async def one_model(main: Backend, head: Head) -> Local:
    """Return what llama-server's list says of one model; by itself it only has the list.

    Raises:
        UpstreamError: llama-server died.
    """
    wanted = unquote(head.path.removeprefix(f"{MODELS}/"))
    async with main.ask("GET", MODELS, [], b"") as answer:
        listed = json.loads(b"".join([piece async for piece in answer.body])).get("data", [])
    found = next((model for model in listed if model.get("id") == wanted), None)
    if found is None:
        return Local.refusal(Refusal(404, "not_found_error", f"there is no model {wanted!r} here"))
    return _json(200, found)


def page(head: Head) -> Local:
    """Return a file of the page; it asks for nothing that is not here."""
    name, kind = PAGE[head.path]
    data = resources.files("ggufkit.inference.serving").joinpath("page", name).read_bytes()
    return Local(200, (("Content-Type", kind), *_PAGE_HEADERS), data)


def _json(status: int, document: object) -> Local:
    return Local(
        status, (("Content-Type", "application/json"), ("Cache-Control", "no-store")), json.dumps(document).encode()
    )
