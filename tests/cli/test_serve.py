"""`ggufkit serve` as clients meet it: the real `openai` package, many at once, nonsense, deaths, and an orderly end."""

import json
import os
import re
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import malformed_requests
import openai
import pytest
import served
import tiny_model
from served import Running, wait_for

import ggufkit

pytestmark = pytest.mark.engine

DEMO = Path(ggufkit.__file__).parent / "demo_model"
KEY = "a-key-that-must-not-be-seen"
SUMS = [(38, 47), (12, 9), (25, 31), (7, 8), (44, 18), (13, 29), (61, 22), (50, 17)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served") / "demo-F16.gguf"
    ggufkit.convert(DEMO, path)
    return path


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that goes on until its context is full, which takes seconds."""
    path = tmp_path_factory.mktemp("served") / "endless.gguf"
    return tiny_model.saying(path, "abc", endless=True, training_context=1 << 16)


@pytest.fixture(scope="module")
def server(demo: Path) -> Iterator[Running]:
    with served.running("serve", demo, "--port", "0", "-t", "1", "--alias", "sums") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.where}/v1", api_key="none", max_retries=0, timeout=served.PATIENCE)


def ask(client: openai.OpenAI, first: int, second: int, *, stream: bool) -> str:
    question = [{"role": "user", "content": f"What is {first} + {second}?"}]
    if not stream:
        reply = client.chat.completions.create(model="sums", messages=question, temperature=0)
        return reply.choices[0].message.content or ""
    pieces = client.chat.completions.create(model="sums", messages=question, temperature=0, stream=True)
    return "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)


def post(server: Running, path: str, body: object, **headers: str) -> tuple[int, bytes]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{server.where}{path}", data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=served.PATIENCE) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


# ---- the openai package


def test_a_streamed_answer_is_the_whole_one(client: openai.OpenAI) -> None:
    whole = ask(client, 38, 47, stream=False)
    assert whole.endswith("= 85")
    assert ask(client, 38, 47, stream=True) == whole


def test_completions_embeddings_and_names(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["sums"]
    assert client.models.retrieve("sums").id == "sums"
    with pytest.raises(openai.NotFoundError, match="there is no model 'others/one' here"):
        client.models.retrieve("others/one")
    assert client.completions.create(model="sums", prompt="1 + 1", max_tokens=4, temperature=0).choices[0].text
    vectors = client.embeddings.create(model="sums", input=["one text", "another one", "one text"]).data
    assert vectors[0].embedding == pytest.approx(vectors[2].embedding, abs=1e-5)
    assert vectors[0].embedding != pytest.approx(vectors[1].embedding, abs=1e-2)
    assert sum(value * value for value in vectors[0].embedding) == pytest.approx(1, abs=1e-3)


def test_32_clients_at_once_get_their_own_answers(server: Running, client: openai.OpenAI) -> None:
    begin = threading.Barrier(32)

    def one(number: int) -> list[tuple[str, int]]:
        own = openai.OpenAI(base_url=client.base_url, api_key="none", max_retries=0, timeout=served.PATIENCE)
        begin.wait(served.PATIENCE)
        sums = [SUMS[(number + step) % len(SUMS)] for step in range(3)]
        with own:
            return [(ask(own, *pair, stream=number % 2 == 0), sum(pair)) for pair in sums]

    with ThreadPoolExecutor(32) as pool:
        answers = [answer for each in pool.map(one, range(32)) for answer in each]
    assert [text for text, right in answers if not text.endswith(f"= {right}")] == []
    assert server.metric("ggufkit_restarts_total") == 0


def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(server: Running, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, 10**3000, 1, stream=False)
    assert caught.value.body["type"] == "exceed_context_size_error"
    assert caught.value.body["n_prompt_tokens"] > caught.value.body["n_ctx"]


# ---- what must not pass


def test_malformed_requests_do_no_harm(server: Running, figure: Callable[[str, str], None]) -> None:
    def memory() -> list[int]:
        texts = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
        return [int(re.search(r"VmRSS:\s+(\d+)", text)[1]) * 1024 for text in texts]

    requests = list(malformed_requests.requests(240, seed=20))
    address = ("127.0.0.1", server.port)
    with ThreadPoolExecutor(4) as pool:
        first = list(pool.map(lambda data: malformed_requests.send(address, data, served.PATIENCE), requests[:60]))
        pids = [server.process.pid, *server.children()]
        before = memory()
        rest = list(pool.map(lambda data: malformed_requests.send(address, data, served.PATIENCE), requests[60:]))
    growth = max(after - early for after, early in zip(memory(), before, strict=True))
    figure("serve: growth by malformed requests", f"{growth / 1e6:.1f} MB in 180")
    assert [data for data, status in zip(requests, first + rest, strict=True) if status and status >= 500] == []
    assert server.metric("ggufkit_restarts_total") == 0
    assert growth < 50_000_000


def test_a_body_that_is_too_large_is_refused_before_it_is_read(server: Running) -> None:
    status, answer = post(server, "/v1/completions", b'{"prompt": "' + b"a" * (40 << 20) + b'"}')
    assert (status, json.loads(answer)["error"]["code"]) == (413, 413)


def test_pages_of_other_sites_are_kept_out(server: Running) -> None:
    body = {"prompt": "1", "max_tokens": 1}
    assert post(server, "/v1/completions", body, Origin="http://evil.example")[0] == 403
    assert post(server, "/v1/completions", body, Host="evil.example")[0] == 403
    assert post(server, "/v1/completions", body, Origin=server.where)[0] == 200


def test_two_requests_on_one_connection_and_a_body_in_chunks(server: Running) -> None:
    body = b'{"prompt": "1 + 1", "max_tokens": 1}'
    chunked = (
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    )
    health = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), served.PATIENCE) as connection:
        connection.sendall(chunked + chunked + health)  # without waiting for answers
        answer = b""
        while piece := connection.recv(1 << 16):
            answer += piece
    assert answer.count(b"HTTP/1.1 200") == 3
    assert answer.endswith(b'{"status": "ok", "restarts": 0}')


def test_heads_are_answered_without_a_body(server: Running) -> None:
    for path, status in (("/health", 200), ("/", 200), ("/page.js", 200), ("/v1/models", 200), ("/nowhere", 404)):
        head = f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", server.port), served.PATIENCE) as connection:
            connection.sendall(head + head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            answer = b""
            while piece := connection.recv(1 << 16):
                answer += piece
        assert answer.count(b"HTTP/1.1 %d" % status) == 2
        assert answer.endswith(b"\r\n\r\n")
        assert answer.count(b"\r\n\r\n") == 2


def test_the_key_opens_and_is_nowhere_to_be_seen(demo: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\n")
    with served.running("serve", demo, "--port", "0", "-t", "1", "--api-key-file", file, "-v") as server:
        body = {"prompt": "1", "max_tokens": 1}
        assert post(server, "/v1/completions", body)[0] == 401
        assert post(server, "/v1/completions?key=" + KEY, body)[0] == 401
        assert post(server, "/v1/completions", body, Authorization=f"Bearer {KEY}")[0] == 200
        for pid in (server.process.pid, *server.children()):
            assert KEY.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
            assert KEY.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
        assert server.end() == 0
    assert any("401 POST /v1/completions" in line for line in server.lines)
    assert [line for line in server.lines if KEY in line] == []


# ---- deaths and ends


@pytest.mark.fault
def test_a_llama_server_that_dies_is_started_again(demo: Path) -> None:
    with served.running("serve", demo, "--port", "0", "-t", "1") as server:
        client = openai.OpenAI(base_url=f"{server.where}/v1", api_key="x", max_retries=0, timeout=served.PATIENCE)
        for death in (signal.SIGSEGV, signal.SIGKILL):
            [child] = server.children()
            os.kill(child, death)
            wait_for(lambda pid=child: pid not in server.children(), "the child has not died")
            assert ask(client, 38, 47, stream=True).endswith("= 85")  # waits for the new one
        assert server.metric("ggufkit_restarts_total") == 2
        assert any("SIGSEGV; starting it again" in line for line in server.lines)
        [child] = server.children()
        assert server.end() == 0
        assert not Path(f"/proc/{child}").exists()


@pytest.mark.fault
def test_a_stream_that_breaks_off_ends_with_an_error(endless: Path) -> None:
    with served.running("serve", endless, "--port", "0", "-t", "1", "-c", "16384") as server:
        client = openai.OpenAI(base_url=f"{server.where}/v1", api_key="x", max_retries=0, timeout=served.PATIENCE)
        stream = client.completions.create(model="x", prompt="\n", max_tokens=16000, stream=True, temperature=0)
        next(iter(stream))
        os.kill(server.children()[0], signal.SIGKILL)
        with pytest.raises(openai.APIError, match="stopped unexpectedly"):
            list(stream)


def test_running_requests_end_and_new_ones_are_refused(endless: Path) -> None:
    with served.running("serve", endless, "--port", "0", "-t", "1", "-c", "16384", "--drain-seconds", "600") as server:
        client = openai.OpenAI(base_url=f"{server.where}/v1", api_key="x", max_retries=0, timeout=served.PATIENCE)
        stream = iter(client.completions.create(model="x", prompt="\n", max_tokens=3000, stream=True, temperature=0))
        next(stream)
        children = server.children()
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: any("waiting for 1 running" in line for line in server.lines), "it does not drain")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), 5)
        last = list(stream)[-1]
        assert last.choices[0].finish_reason == "length"
        assert last.usage is None or last.usage.completion_tokens == 3000
        assert server.process.wait(served.PATIENCE) == 0
        assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_a_second_signal_ends_it_at_once(endless: Path) -> None:
    with served.running("serve", endless, "--port", "0", "-t", "1", "-c", "65536", "-np", "1") as server:
        client = openai.OpenAI(base_url=f"{server.where}/v1", api_key="x", max_retries=0, timeout=served.PATIENCE)
        stream = iter(client.completions.create(model="x", prompt="\n", max_tokens=65000, stream=True, temperature=0))
        next(stream)
        server.process.send_signal(signal.SIGINT)
        wait_for(lambda: any("waiting for 1 running" in line for line in server.lines), "it does not drain")
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(served.PATIENCE) == 130


def test_a_client_that_leaves_frees_its_slot(endless: Path) -> None:
    with served.running("serve", endless, "--port", "0", "-t", "1", "-c", "65536", "-np", "1") as server:
        client = openai.OpenAI(base_url=f"{server.where}/v1", api_key="x", max_retries=0, timeout=served.PATIENCE)
        stream = client.completions.create(model="x", prompt="\n", max_tokens=65000, stream=True, temperature=0)
        next(iter(stream))
        assert server.metric("llamacpp:requests_processing") == 1
        stream.close()
        wait_for(lambda: server.metric("llamacpp:requests_processing") == 0, "the slot is not free")


def test_a_browser_is_opened_at_the_page(demo: Path, tmp_path: Path) -> None:
    browser = tmp_path / "browser"
    browser.write_text(
        f'#!/bin/sh\necho "$1" > {tmp_path}/opened.part && mv {tmp_path}/opened.part {tmp_path}/opened\n'
    )
    browser.chmod(0o755)
    arguments = ("serve", demo, "--port", "0", "-t", "1", "--open")
    with served.running(*arguments, environment={"BROWSER": f"{browser} %s"}) as server:
        wait_for((tmp_path / "opened").exists, "no browser was started")
        assert (tmp_path / "opened").read_text().strip() == server.where


# ---- what is refused before anything is loaded


def refused(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*served.COMMAND, "serve", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=served.PATIENCE, check=False)


def test_other_machines_are_not_let_in_without_a_key(demo: Path) -> None:
    done = refused(demo, "--host", "0.0.0.0", "--port", "0")
    assert done.returncode == 2
    assert "a key is needed" in done.stderr


def test_a_port_that_is_taken_is_named(demo: Path, server: Running) -> None:
    done = refused(demo, "--port", str(server.port))
    assert done.returncode == 5
    assert f"cannot listen on 127.0.0.1:{server.port}: address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broken_model_is_told_at_once(demo: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(demo.read_bytes()[:100_000])
    done = refused(broken, "--port", "0")
    assert done.returncode == 3
    assert len(done.stderr.strip().splitlines()) <= 3


def test_a_model_that_llama_cpp_refuses_is_explained(tmp_path: Path) -> None:
    model = tiny_model.write(tmp_path / "odd.gguf", overrides={"general.architecture": "nonesuch"})
    done = refused(model, "--port", "0")
    assert done.returncode == 6
    assert "nonesuch" in done.stderr
