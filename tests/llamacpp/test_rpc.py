"""Asking workers before llama.cpp does: what is none, or another version, is told and never connected to."""

import re
import struct

import fake_worker
import pytest
from fake_worker import GREETING

from ggufkit.errors import UsageError
from ggufkit.llamacpp import find, rpc
from ggufkit.llamacpp.rpc import BusyError, Endpoint, UnreachableError, WorkerError


def ask(where: str) -> rpc.Worker:
    return rpc.ask(Endpoint.parse(where), seconds=1.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("box.lan", ("box.lan", 50052)), ("10.0.0.5:123", ("10.0.0.5", 123)), (" box:1 ", ("box", 1))],
)
def test_an_endpoint_is_a_host_and_a_port(text: str, expected: tuple[str, int]) -> None:
    endpoint = Endpoint.parse(text)
    assert (endpoint.host, endpoint.port) == expected


@pytest.mark.parametrize("text", ["", ":5", "host:", "host:0", "host:65536", "host:x", "host:-1", "[::1]:5", "a b:5"])
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Endpoint.parse(text)


def test_a_worker_is_named_once_and_there_are_not_too_many() -> None:
    assert [str(each) for each in rpc.endpoints(["a:1,b:2", "c:3"])] == ["a:1", "b:2", "c:3"]
    with pytest.raises(UsageError, match="twice"):
        rpc.endpoints(["a:1", "b:1,a:1"])
    with pytest.raises(UsageError, match="too many"):
        rpc.endpoints([f"a:{port}" for port in range(1, 18)])


def test_where_nothing_listens_the_worker_is_named() -> None:
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1 cannot be reached: connection refused"):
        ask("127.0.0.1:1")
    with pytest.raises(UnreachableError, match="no host of that name"):
        ask("no-such-host.invalid:5")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n" + b"x" * 200,
        b"SSH-2.0-OpenSSH_9.2\r\n",
        GREETING + b"\x07",
        struct.pack("<Q", 1 << 60),
        GREETING + bytes([7, 0, 0, 0]) + bytes(24) + struct.pack("<QI", 4, 1_000_000),
    ],
)
def test_what_is_no_worker_is_told(answer: bytes) -> None:
    with fake_worker.listening(answer) as where, pytest.raises(WorkerError, match="no worker") as caught:
        ask(where)
    assert where in str(caught.value)


@pytest.mark.parametrize("version", [(6, 0, 0), (7, 1, 0), (8, 0, 0)])
def test_another_version_is_told(version: tuple[int, int, int]) -> None:
    answer = GREETING + bytes([*version, 0]) + bytes(24)
    with (
        fake_worker.listening(answer) as where,
        pytest.raises(WorkerError, match=re.escape(".".join(map(str, version)))),
    ):
        ask(where)


def test_an_old_greeting_is_read_too() -> None:
    answer = struct.pack("<Q", 3) + bytes([3, 6, 1])
    with fake_worker.listening(answer) as where, pytest.raises(WorkerError, match=r"version 3\.6\.1"):
        ask(where)


def test_one_that_stays_silent_is_busy() -> None:
    with fake_worker.listening(None) as where, pytest.raises(BusyError, match="serves another program"):
        ask(where)


@pytest.mark.engine
def test_our_constants_are_those_of_the_pinned_source() -> None:
    source = find.find_source() / "ggml"
    header = (source / "include/ggml-rpc.h").read_text()
    code = (source / "src/ggml-rpc/ggml-rpc.cpp").read_text()
    versions = dict(re.findall(r"RPC_PROTO_(MAJOR|MINOR)_VERSION +(\d+)", header))
    assert (int(versions["MAJOR"]), int(versions["MINOR"])) == rpc.PROTOCOL
    assert f"GGML_RPC_MAX_SERVERS       {rpc.MOST_SERVERS}" in header
    commands = re.findall(r"\bRPC_CMD_(\w+)", code[code.index("enum rpc_cmd {") : code.index("RPC_CMD_COUNT,")])
    assert [commands.index(name) for name in ("HELLO", "DEVICE_COUNT", "GET_DEVICE_MEMORY")] == [14, 15, 11]
