"""llama.cpp's own server as an oracle for generated text: token ids in, the same model's greedy reply out."""

import contextlib
import http.client
import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufkit.llamacpp.find import find

_PATIENCE = 60.0


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_PATIENCE)
        self.sock.connect(str(self._path))


@dataclass(frozen=True, slots=True)
class Server:
    socket: Path

    def greedy(self, prompt: Sequence[int], count: int) -> tuple[list[int], str]:
        """The likeliest tokens after a prompt, but for the one that ends the reply, and their text."""
        answer = json.loads(self._post(prompt, count, stream=False))
        tokens = answer["tokens"]
        return tokens[:-1] if answer["stop_type"] == "eos" else tokens, answer["content"]

    def greedy_stream(self, prompt: Sequence[int], count: int) -> str:
        """The same text, put together from what the server streams."""
        lines = self._post(prompt, count, stream=True).decode().splitlines()
        events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
        return "".join(event["content"] for event in events)

    def _post(self, prompt: Sequence[int], count: int, *, stream: bool) -> bytes:
        asked: dict[str, Any] = {
            "prompt": list(prompt),
            "n_predict": count,
            "temperature": 0,
            "cache_prompt": False,
            "return_tokens": not stream,
            "stream": stream,
        }
        connection = _Connection(self.socket)
        with contextlib.closing(connection):
            connection.request("POST", "/completion", json.dumps(asked), {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read()
        assert response.status == 200, content
        return content


@contextlib.contextmanager
def running(model: Path, *, context_size: int = 512, threads: int = 1) -> Iterator[Server]:
    """A server for one model, with the batch sizes that the engine has by default."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "server.sock")
        command = [find().tool("llama-server"), "--model", model, "--host", place, "--parallel", "1"]
        command += ["--ctx-size", context_size, "--threads", threads, "--no-warmup"]
        with Path(folder, "log").open("wb") as log:
            process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + _PATIENCE
            while not _is_ready(place):
                assert process.poll() is None, Path(folder, "log").read_text(errors="replace")[-2000:]
                assert time.monotonic() < deadline, "llama-server does not get ready"
                time.sleep(0.05)
            yield Server(place)
        finally:
            process.kill()
            process.wait()


def _is_ready(place: Path) -> bool:
    connection = _Connection(place)
    try:
        with contextlib.closing(connection):
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
