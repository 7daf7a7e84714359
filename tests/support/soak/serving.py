"""Rows about `ggufkit serve`: ten thousand bad requests, and thirty-two clients at once who ask the same both ways."""

import itertools
import json
import re
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import malformed_requests
import served

import ggufkit
from soak import Row, Trial

_DEMO = Path(ggufkit.__file__).parent / "demo_model"
_NOT_SUPPORTED = 501  # llama-server's answer for what the model or its options do not offer
_AT_ONCE = 16
_SECONDS = 30.0  # until a request that is never answered is given up, as some must be
_WARM_UP = 500  # requests, before the memory of the server's processes is first looked at
_CLIENTS, _PROMPTS = 32, 20


def _model(folder: Path) -> Path:
    model = folder / "demo-F16.gguf"
    ggufkit.convert(_DEMO, model)
    return model


def _resident(pid: int) -> int:
    """Return the resident set of a process in bytes."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 if found else 0


def bad_requests(trial: Trial) -> None:
    start = trial.tried.cases
    requests = itertools.islice(malformed_requests.requests(trial.count, trial.seed), start, None)
    with served.running("serve", _model(trial.folder), "--port", "0") as server, ThreadPoolExecutor(_AT_ONCE) as pool:
        address = ("127.0.0.1", server.port)
        before: list[int] = []
        waiting: list[tuple[int, bytes]] = []

        def answer() -> None:
            sent = pool.map(lambda item: malformed_requests.send(address, item[1], _SECONDS), waiting)
            for (number, data), status in zip(waiting, sent, strict=True):
                trial.add(f"x {status or 'hung up on'}")
                if status is not None and status >= 500 and status != _NOT_SUPPORTED:
                    trial.broken(number, f"{status} for {data[-300:]!r}")
            waiting.clear()

        def memory() -> list[int]:
            return [_resident(pid) for pid in (server.process.pid, *server.children())]

        for case, data in zip(trial.cases(), requests, strict=False):
            waiting.append((case, data))
            if len(waiting) == _WARM_UP:
                answer()
                before = before or memory()
        answer()
        for early, late in zip(before, memory(), strict=False):
            trial.worst("growth in MB", (late - early) / 1e6, limit=50)
        trial.worst("restarts", server.metric("ggufkit_restarts_total"), limit=0)


def many_clients(trial: Trial) -> None:
    with served.running("serve", _model(trial.folder), "--port", "0", "-np", "4") as server:

        def ask(prompt: str, *, stream: bool) -> str:
            body = {"prompt": prompt, "max_tokens": 12, "temperature": 0, "stream": stream}
            head = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{server.where}/v1/completions", json.dumps(body).encode(), head)
            with urllib.request.urlopen(request, timeout=served.PATIENCE * 5) as answer:
                if not stream:
                    return str(json.load(answer)["choices"][0]["text"])
                lines = [line[6:] for line in answer.read().decode().splitlines() if line.startswith("data: {")]
                return "".join(json.loads(line)["choices"][0]["text"] for line in lines)

        for case in trial.cases():
            prompts = [f"What is {client} + {case}?" for client in range(_CLIENTS)]
            alone = [ask(prompt, stream=False) for prompt in prompts]
            begin = threading.Barrier(_CLIENTS)

            def one(number: int, prompts: list[str] = prompts, begin: threading.Barrier = begin) -> str:
                begin.wait()
                return ask(prompts[number], stream=bool(number % 2))

            with ThreadPoolExecutor(_CLIENTS) as pool:
                for prompt, wanted, got in zip(prompts, alone, pool.map(one, range(_CLIENTS)), strict=True):
                    trial.add("answers")
                    if got != wanted:
                        trial.broken(case, f"{prompt!r} gave {got!r}, and {wanted!r} when asked alone")
        trial.worst("restarts", server.metric("ggufkit_restarts_total"), limit=0)


ROWS = [
    Row(
        "bad-requests",
        "API: 10,000 malformed requests",
        "0 5xx from our code, 0 restarts, RSS growth < 50 MiB",
        bad_requests,
        count=10_000,
        quick=0,  # tests/cli/test_serve.py
        engine=True,
    ),
    Row(
        "clients",
        "32 clients x 20 prompts at once",
        "640 right answers, stream = non-stream",
        many_clients,
        count=_PROMPTS,
        quick=0,  # tests/cli/test_serve.py
        engine=True,
    ),
]
