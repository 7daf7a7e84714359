"""A model spread over workers: the same text as on one machine, and an error that names the worker that is lost."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_worker
import namespaces
import pytest
import served
from served import Running

import ggufkit

pytestmark = pytest.mark.engine

DEMO = Path(ggufkit.__file__).parent / "demo_model"
# In a process of its own: what is lost with a worker stays lost for a process.
GENERATE = """
import json, sys
from ggufkit.errors import GgufkitError
from ggufkit.inference.engine import Engine
from ggufkit.inference.options import EngineOptions, SamplingOptions
from ggufkit.llamacpp import binding

path, options, steps = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:]
options["rpc_servers"] = tuple(options.get("rpc_servers", ()))
found = {"texts": [], "shares": [], "error": None}
try:
    with Engine.open(path, EngineOptions(threads=1, context_size=512, **options)) as engine:
        found["shares"] = [[share.device.name, share.first, share.end] for share in engine.placement.shares]
        found["planned"] = {share.device.name: [share.weights, share.cache] for share in engine.placement.shares}
        found["log"] = [line for line in binding.log_lines() if "buffer size =" in line]
        question = "<|im_start|>user\\nWhat is 38 + 47?<|im_end|>\\n<|im_start|>assistant\\n"
        prompt = engine.tokenize(question, parse_special=True)
        for step in steps:
            if step == "wait":
                print("waiting", flush=True)
                sys.stdin.readline()
            reply = engine.generate(prompt, SamplingOptions(temperature=0), max_tokens=30)
            found["texts"].append("".join(piece.text for piece in reply))
            found["speed"] = reply.result.tokens_per_second
except GgufkitError as error:
    found["error"] = [type(error).__name__, str(error), error.hint]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("workers") / "demo-F16.gguf"
    ggufkit.convert(DEMO, path)
    return path


@pytest.fixture
def workers() -> Iterator[list[Running]]:
    arguments = ("worker", "--port", "0", "-t", "1")
    with served.running(*arguments) as first, served.running(*arguments) as second:
        yield [first, second]


def generate(model: Path, options: dict[str, object], *steps: str) -> dict[str, Any]:
    command = [sys.executable, "-c", GENERATE, str(model), json.dumps(options), *(steps or ["say"])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=served.PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_a_model_over_three_machines_says_the_same(demo: Path, workers: list[Running]) -> None:
    alone = generate(demo, {})
    assert alone["shares"] == []
    spread = generate(demo, {"rpc_servers": [worker.where for worker in workers]}, "say", "say")
    assert spread["error"] is None
    assert spread["texts"] == alone["texts"] * 2
    assert [name for name, _, _ in spread["shares"]] == ["CPU", *(worker.where for worker in workers)]
    assert all(end > first for _, first, end in spread["shares"])
    chosen = {"rpc_servers": [worker.where for worker in workers], "gpu_layers": 4, "tensor_split": [1, 3]}
    split = generate(demo, chosen)
    assert split["shares"] == [["CPU", 0, 1], [workers[0].where, 1, 2], [workers[1].where, 2, 4]]
    assert split["texts"] == alone["texts"]


def test_workers_in_other_network_namespaces(demo: Path, figure: Callable[[str, str], None]) -> None:
    if reason := namespaces.why_not():
        pytest.skip(reason)
    with contextlib.ExitStack() as stack:
        wheres = []
        for number in (1, 2):
            address, prefix = stack.enter_context(namespaces.machine(number))
            arguments = ("worker", "--host", address, "--port", "50052", "-t", "1")
            worker = stack.enter_context(served.running(*arguments, prefix=prefix))
            assert any(line.startswith("warning: listening on") and "authentication" in line for line in worker.lines)
            wheres.append(worker.where)
        alone, spread = generate(demo, {}), generate(demo, {"rpc_servers": wheres})
        assert [name for name, _, _ in spread["shares"]] == ["CPU", *wheres]
        assert spread["texts"] == alone["texts"]
        figure(
            "workers: demo model, tokens per second", f"{alone['speed']:.0f} alone, {spread['speed']:.0f} over three"
        )


def test_each_device_holds_what_was_planned(demo: Path, workers: list[Running]) -> None:
    found = generate(demo, {"rpc_servers": [worker.where for worker in workers], "gpu_layers": "all"})
    for worker in workers:
        weights, cache = (
            round(sum(float(size) for size in re.findall(pattern, "\n".join(found["log"]))) * 2**20)
            for pattern in (
                rf"RPC0\[{worker.where}\] +model buffer size = +([\d.]+) MiB",
                rf"RPC0\[{worker.where}\] +KV buffer size = +([\d.]+) MiB",
            )
        )
        # llama.cpp tells hundredths of a MiB
        assert found["planned"][worker.where] == pytest.approx([weights, cache], abs=0.006 * 2**20, rel=0)


@pytest.mark.fault
def test_a_worker_that_dies_is_named(demo: Path, workers: list[Running]) -> None:
    options = json.dumps({"rpc_servers": [worker.where for worker in workers]})
    command = [sys.executable, "-c", GENERATE, str(demo), options, "say", "wait", "say"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "waiting\n"
        lent = workers[1].children()
        os.kill(workers[1].process.pid, signal.SIGKILL)  # its machine is gone: nobody starts it again
        served.wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in lent), "the worker lives on")
        output, errors = run.communicate("\n", timeout=served.PATIENCE)
    assert (run.returncode, errors) == (0, "")
    found = json.loads(output)
    assert len(found["texts"]) == 1
    kind, message, hint = found["error"]
    assert kind == "LlamaCppError"
    assert f"the worker {workers[1].where} is gone" in message
    assert workers[0].where not in message
    assert "ggufkit worker --list" in hint
    # The other one is free again, and of use.
    assert generate(demo, {"rpc_servers": [workers[0].where]})["texts"] == found["texts"]


@pytest.mark.fault
def test_a_worker_that_crashed_is_started_again(demo: Path, workers: list[Running]) -> None:
    [program] = workers[0].children()
    os.kill(program, signal.SIGSEGV)
    served.wait_for(lambda: sum("ready at" in line for line in workers[0].lines) == 2, "it is not started again")
    assert generate(demo, {"rpc_servers": [workers[0].where]})["error"] is None
    assert workers[0].end() == 0
    assert workers[1].end(signal.SIGINT) == 130


def chat(demo: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*served.COMMAND, "chat", str(demo), "What is 38 + 47?", "-t", "1", "--temp", "0", *arguments]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=served.PATIENCE, check=False
    )


def test_workers_that_cannot_be_used_are_one_line(demo: Path) -> None:
    with fake_worker.listening(b"HTTP/1.1 400 Bad Request\r\n\r\n") as stranger:
        for where, reason in ((stranger, "is no worker"), ("127.0.0.1:1", "cannot be reached: connection refused")):
            done = chat(demo, "--rpc", where)
            assert done.returncode == 3
            assert f"{where}" in done.stderr.splitlines()[0]
            assert reason in done.stderr.splitlines()[0]
            assert done.stdout == ""
            assert len(done.stderr.strip().splitlines()) == 3  # the error, nothing, the hint


def test_a_device_that_no_worker_can_lend_is_one_line() -> None:
    done = subprocess.run(
        [*served.COMMAND, "worker", "--port", "0", "--device", "CPU,NOPE"],
        capture_output=True,
        text=True,
        timeout=served.PATIENCE,
        check=False,
    )
    assert done.returncode == 2
    assert "there is no device NOPE; this build sees CPU" in done.stderr
    assert "Traceback" not in done.stderr


def test_chat_and_serve_use_workers(demo: Path, workers: list[Running]) -> None:
    named = ",".join(worker.where for worker in workers)
    done = chat(demo, "--rpc", named)
    assert (done.returncode, done.stdout.strip()[-4:]) == (0, "= 85")
    assert all(f"{worker.where}: block" in done.stderr for worker in workers)
    with served.running("serve", demo, "--port", "0", "-t", "1", "--rpc", named) as server:
        assert any(f"{workers[0].where}: block" in line for line in server.lines)
        # While it runs the workers are its own.
        listing = [*served.COMMAND, "worker", "--list", f"{workers[0].where},127.0.0.1:1", "--json"]
        shown = subprocess.run(listing, capture_output=True, text=True, timeout=served.PATIENCE, check=False)
        assert shown.returncode == 3
        busy, absent = json.loads(shown.stdout)["workers"]
        assert "serves another program" in busy["reason"]
        assert "connection refused" in absent["reason"]
        assert server.end() == 0
    shown = subprocess.run(
        [*served.COMMAND, "worker", "--list", named], capture_output=True, text=True, timeout=60, check=False
    )
    assert shown.returncode == 0
    assert [line.split()[1] for line in shown.stdout.splitlines()] == ["ready,", "ready,"]


@pytest.mark.fault
def test_serve_names_a_worker_that_it_lost(demo: Path, workers: list[Running]) -> None:
    named = ",".join(worker.where for worker in workers)
    with served.running("serve", demo, "--port", "0", "-t", "1", "--rpc", named) as server:
        os.kill(workers[1].process.pid, signal.SIGKILL)
        [child] = server.children()
        os.kill(child, signal.SIGABRT)  # as it does itself at the next request
        assert server.process.wait(served.PATIENCE) == 6
    assert any(f"the worker {workers[1].where} cannot be reached" in line for line in server.lines)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--tensor-split", "1,1"], 0, "no effect"),
        (["-ngl", "4"], 0, "no effect"),
        (["-ot", "nothing=CPU"], 2, "no tensor"),
        (["--n-cpu-moe", "2"], 2, "no mixture of experts"),
        (["-ngl", "some"], 2, "not a number of layers, auto or all"),
        (["-ts", "a"], 2, "numbers"),
        (["--rpc", "[::1]:5"], 2, "IPv6"),
    ],
)
def test_placement_that_cannot_be_is_told(demo: Path, arguments: list[str], code: int, words: str) -> None:
    done = chat(demo, *arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
