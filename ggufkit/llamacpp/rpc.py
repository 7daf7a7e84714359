"""Asking machines that offer their memory and compute by llama.cpp's RPC protocol, before llama.cpp itself does.

llama.cpp ends the whole process when such a machine is not there, speaks another version, or leaves. So each one is
asked first, in the protocol of `ggml/src/ggml-rpc/ggml-rpc.cpp`: a command is one byte, the length of its data as 8
bytes and the data; an answer is a length and data. All numbers are little-endian.
"""

import concurrent.futures
import contextlib
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ggufkit.errors import GgufkitError, InputError, UsageError

DEFAULT_PORT = 50052  # of ggml-rpc-server
PROTOCOL = (7, 0)  # ggml-rpc.h, RPC_PROTO_MAJOR_VERSION and _MINOR_VERSION of the pinned llama.cpp
MOST_SERVERS = 16  # ggml-rpc.h, GGML_RPC_MAX_SERVERS
_HELLO, _DEVICE_COUNT, _DEVICE_MEMORY = 14, 15, 11  # ggml-rpc.cpp, enum rpc_cmd
_CAPABILITIES = 24  # transport.h, RPC_CONN_CAPS_SIZE
_MOST_DEVICES = 64
_SECONDS = 5.0


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """Where a worker listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `HOST` or `HOST:PORT`. Raises UsageError."""
        host, separator, port = text.strip().partition(":")
        if not host or any(character.isspace() for character in host):
            raise UsageError(f"{text!r} is not HOST:PORT", hint="as in --rpc 192.168.1.20:50052")
        if ":" in port or host.startswith("["):
            raise UsageError(f"{text!r}: llama.cpp's RPC knows no IPv6; name the machine or give its IPv4 address")
        if separator and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
            raise UsageError(f"{text!r}: the port must be a number from 1 to 65535")
        return cls(host, int(port) if separator else DEFAULT_PORT)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class RemoteDevice:
    """A device of a worker; memory in bytes."""

    memory_free: int
    memory_total: int


@dataclass(frozen=True, slots=True)
class Worker:
    """A machine that answered: the version of its protocol, and what it offers."""

    endpoint: Endpoint
    version: str
    devices: tuple[RemoteDevice, ...]


_answered: dict[Endpoint, Worker] = {}


class WorkerError(InputError):
    """A worker cannot be used; the message names it and says why."""


class UnreachableError(WorkerError):
    """Nothing accepts connections there."""


class BusyError(WorkerError):
    """Something accepted the connection and stayed silent, as a worker does that serves another program."""


def endpoints(texts: Sequence[str]) -> tuple[Endpoint, ...]:
    """Read workers, each given as `HOST:PORT` or several with commas between them. Raises UsageError."""
    found = [Endpoint.parse(part) for text in texts for part in text.split(",") if part.strip()]
    if texts and not found:
        raise UsageError("no worker is named", hint="as in --rpc 192.168.1.20:50052")
    for endpoint in found:
        if found.count(endpoint) > 1:
            raise UsageError(f"the worker {endpoint} is named twice; it serves one connection at a time")
    if len(found) > MOST_SERVERS:
        raise UsageError(f"{len(found)} workers are too many: llama.cpp takes {MOST_SERVERS}")
    return tuple(found)


def ask(endpoint: Endpoint, seconds: float = _SECONDS) -> Worker:
    """Greet a worker and ask what it offers; `seconds` is the patience for each answer.

    Raises:
        UnreachableError: there is no such host, or nothing listens.
        BusyError: no answer came.
        WorkerError: it is no worker, or one of another version.
    """
    with _connect(endpoint, seconds) as connection:
        try:
            answer = _call(connection, _HELLO, bytes(_CAPABILITIES))
            version = _version(endpoint, answer)
            (count,) = struct.unpack("<I", _call(connection, _DEVICE_COUNT, b""))
            if count > _MOST_DEVICES:
                raise _stranger(endpoint)
            memories = [_call(connection, _DEVICE_MEMORY, struct.pack("<I", index)) for index in range(count)]
            devices = tuple(RemoteDevice(*struct.unpack("<QQ", memory)) for memory in memories)
        except TimeoutError:
            raise BusyError(
                f"the worker {endpoint} does not answer: it serves another program, or is no worker",
                hint="a worker serves one program at a time; end the other one, or start a second worker",
            ) from None
        except (OSError, struct.error, EOFError):
            raise _stranger(endpoint) from None
    return Worker(endpoint, version, devices)


def ask_all(wanted: Sequence[Endpoint], seconds: float = _SECONDS) -> list[tuple[Endpoint, Worker | WorkerError]]:
    """Ask several workers at once; a failure is part of the answer."""

    def one(endpoint: Endpoint) -> Worker | WorkerError:
        try:
            return ask(endpoint, seconds)
        except WorkerError as error:
            return error

    if not wanted:
        return []
    with concurrent.futures.ThreadPoolExecutor(len(wanted)) as pool:
        return list(zip(wanted, pool.map(one, wanted), strict=True))


def check(wanted: Sequence[Endpoint], seconds: float = _SECONDS) -> list[Worker]:
    """Make sure that all workers can be used now. Raises the WorkerError of the first that cannot.

    One that serves this very process already could not answer: what it said before stands for it.
    """
    ours = {endpoint: _answered[endpoint] for endpoint in wanted if endpoint in _answered and is_connected(endpoint)}
    for endpoint, answer in ask_all([each for each in wanted if each not in ours], seconds):
        if isinstance(answer, GgufkitError):
            raise answer
        ours[endpoint] = _answered[endpoint] = answer
    return [ours[endpoint] for endpoint in wanted]


def blame(suspects: Sequence[Endpoint]) -> str:
    """Say which of these workers is gone, after llama.cpp gave up on one of them."""
    gone = [endpoint for endpoint, answer in ask_all(suspects, 2.0) if isinstance(answer, UnreachableError)]
    if not gone and len(suspects) > 1:
        return f"the connection to one of the workers {', '.join(map(str, suspects))} broke"
    names = ", ".join(map(str, gone or suspects))
    return f"the worker {names} is gone" if len(gone or suspects) == 1 else f"the workers {names} are gone"


def is_connected(endpoint: Endpoint) -> bool:
    """Tell whether this process has a connection to a worker, whoever made it, that neither side has ended."""
    return any(_is_open(connection) for connection in _connections(endpoint))


def keep_alive(endpoint: Endpoint) -> None:
    """Have the system ask after a silent machine, and end the connections of one that is cut off in half a minute."""
    names = ("TCP_KEEPIDLE", 10), ("TCP_KEEPALIVE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)
    for connection in _connections(endpoint):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in names:
            if hasattr(socket, name):  # which of them there are depends on the system
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)


def _connections(endpoint: Endpoint) -> Iterator[socket.socket]:
    """Yield a duplicate of each socket of this process that is connected to a worker; closed after its turn."""
    try:
        wanted = {info[4] for info in socket.getaddrinfo(endpoint.host, endpoint.port, socket.AF_INET)}
        numbers = [int(entry.name) for entry in Path("/dev/fd").iterdir()]
    except OSError:
        return
    for number in numbers:
        try:
            duplicate = os.dup(number)
        except OSError:  # the descriptor of the listing itself
            continue
        try:
            connection = socket.socket(fileno=duplicate)
        except OSError:  # not a socket
            os.close(duplicate)
            continue
        with connection, contextlib.suppress(OSError):
            if connection.family == socket.AF_INET and connection.getpeername() in wanted:
                yield connection


def _is_open(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True


def _connect(endpoint: Endpoint, seconds: float) -> socket.socket:
    try:
        # IPv4 only, as llama.cpp will do it
        addresses = socket.getaddrinfo(endpoint.host, endpoint.port, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UnreachableError(f"the worker {endpoint} cannot be found: there is no host of that name") from None
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    connection.settimeout(seconds)
    try:
        connection.connect(addresses[0][4])
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        connection.close()
        reason = "no answer" if isinstance(error, TimeoutError) else (error.strerror or str(error)).lower()
        raise UnreachableError(
            f"the worker {endpoint} cannot be reached: {reason}",
            hint=f"on that machine: ggufkit worker --host {endpoint.host} --port {endpoint.port}",
        ) from None
    return connection


def _call(connection: socket.socket, command: int, data: bytes) -> bytes:
    connection.sendall(struct.pack("<BQ", command, len(data)) + data)
    (length,) = struct.unpack("<Q", _receive(connection, 8))
    return _receive(connection, min(length, 256))


def _receive(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def _version(endpoint: Endpoint, answer: bytes) -> str:
    if len(answer) not in {3, 4 + _CAPABILITIES}:  # 3: before capabilities were exchanged
        raise _stranger(endpoint)
    major, minor, patch = answer[:3]
    if major != PROTOCOL[0] or minor > PROTOCOL[1]:
        raise WorkerError(
            f"the worker {endpoint} speaks version {major}.{minor}.{patch} of llama.cpp's RPC protocol; "
            f"this build speaks {PROTOCOL[0]}.{PROTOCOL[1]}",
            hint="install the same version of ggufkit on both machines",
        )
    return f"{major}.{minor}.{patch}"


def _stranger(endpoint: Endpoint) -> WorkerError:
    return WorkerError(
        f"what listens at {endpoint} is no worker, or one of another version of llama.cpp",
        hint="install the same version of ggufkit on both machines, and run `ggufkit worker` there",
    )
