"""Passing one request on to llama-server, over a Unix socket, and its answer back piece by piece."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path

import h11

_AT_ONCE = 1 << 16
# Of one connection only (RFC 9110, 7.6.1), or none of the other side's business.
_NOT_PASSED_ON = {
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
}
_NOT_UPWARDS = {b"host", b"authorization", b"x-api-key", b"cookie", b"origin", b"expect", b"content-length"}
_NOT_DOWNWARDS = {b"server", b"date"}

Headers = list[tuple[bytes, bytes]]


class UpstreamError(Exception):
    """llama-server is not there, left, or wrote what is no HTTP."""


@dataclass(slots=True)
class Answer:
    """The head of an answer, and its body, which comes piece by piece: an UpstreamError may come in between."""

    status: int
    headers: Headers
    body: AsyncIterator[bytes]


@contextlib.asynccontextmanager
async def ask(
    socket: Path, method: str, target: str, headers: Iterable[tuple[bytes, bytes]], body: bytes
) -> AsyncIterator[Answer]:
    """Send a request. Leaving the context before the body is whole tells llama-server to stop working on it.

    Raises:
        UpstreamError: no answer came.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(socket)
    except OSError as error:
        raise UpstreamError(str(error)) from None
    try:
        connection = h11.Connection(h11.CLIENT)
        passed = [(name, value) for name, value in headers if name.lower() not in _NOT_PASSED_ON | _NOT_UPWARDS]
        length = [(b"content-length", str(len(body)).encode())] if body or method == "POST" else []
        request = h11.Request(
            method=method,
            target=target,
            headers=[(b"host", b"localhost"), (b"connection", b"close"), *passed, *length],
        )
        for event in (request, h11.Data(data=body), h11.EndOfMessage()):
            writer.write(connection.send(event) or b"")
        with contextlib.suppress(OSError):  # an answer may come, and an end, before the whole body was read
            await writer.drain()
        head = await _next(connection, reader)
        while isinstance(head, h11.InformationalResponse):
            head = await _next(connection, reader)
        if not isinstance(head, h11.Response):
            raise UpstreamError("no answer")
        yield Answer(head.status_code, _downwards(head.headers), _body(connection, reader))
    finally:
        writer.transport.abort()


async def _body(connection: h11.Connection, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while True:
        event = await _next(connection, reader)
        if isinstance(event, h11.Data):
            yield bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return
        else:
            raise UpstreamError("the answer broke off")


async def _next(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Event | type[h11.PAUSED]:
    try:
        while (event := connection.next_event()) is h11.NEED_DATA:
            connection.receive_data(await reader.read(_AT_ONCE))
    except (OSError, h11.RemoteProtocolError) as error:
        raise UpstreamError(str(error)) from None
    return event  # type: ignore[return-value]  # NEED_DATA was taken out above


def _downwards(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    return [
        (name, value)
        for name, value in headers
        if name.lower() not in _NOT_PASSED_ON | _NOT_DOWNWARDS and not name.lower().startswith(b"access-control-")
    ]
