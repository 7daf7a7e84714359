"""A client's connection to the gate: HTTP events in and out, read and written by h11."""

import asyncio
import contextlib
from dataclasses import dataclass

import h11

from ggufkit.inference.serving.exchange import Headers
from ggufkit.inference.serving.rules import Head, Refusal

_AT_ONCE = 1 << 16
_MOST_HEAD_BYTES = 1 << 16
_SECONDS_FOR_A_REQUEST = 60.0
_SECONDS_TO_LINGER, _MOST_UNREAD_BYTES = 5.0, 256 << 20
_COMMON: Headers = [(b"server", b"ggufkit"), (b"x-content-type-options", b"nosniff")]


@dataclass(frozen=True, slots=True)
class Local:
    """An answer of our own."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @classmethod
    def refusal(cls, refusal: Refusal) -> "Local":
        """Make the answer that tells of a refusal."""
        return cls(refusal.status, (("Content-Type", "application/json"), *refusal.headers), refusal.body())


class Client:
    """One connection. `head_only` is to be set when the request that is answered asks for no body."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Begin to speak HTTP on a connection that asyncio has accepted."""
        self.connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST_HEAD_BYTES)
        self.head_only = False
        self._reader, self._writer = reader, writer

    async def next_event(self, seconds: float) -> h11.Event | type[h11.PAUSED]:
        """Read the next event. Raises RemoteProtocolError, TimeoutError."""
        while (event := self.connection.next_event()) is h11.NEED_DATA:
            if self.connection.they_are_waiting_for_100_continue:
                await self.write(h11.InformationalResponse(status_code=100, headers=[]))
            self.connection.receive_data(await asyncio.wait_for(self._reader.read(_AT_ONCE), seconds))
        return event  # type: ignore[return-value]  # NEED_DATA was taken out above

    async def body(self, head: Head, limit: int) -> bytes:
        """Read the body. Raises OverflowError for one that is too long, TimeoutError for one that does not come."""
        length = head.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > limit:
            raise OverflowError
        pieces, size = [], 0
        while isinstance(event := await self.next_event(_SECONDS_FOR_A_REQUEST), h11.Data):
            pieces.append(bytes(event.data))
            size += len(event.data)
            if size > limit:
                raise OverflowError
        if not isinstance(event, h11.EndOfMessage):
            raise ConnectionResetError
        return b"".join(pieces)

    async def gone(self) -> None:
        """Return when the client has left; what it sends meanwhile is its next request."""
        held = 0
        while data := await self._reader.read(_AT_ONCE):
            self.connection.receive_data(data)
            held += len(data)
            if held > _MOST_HEAD_BYTES:
                await asyncio.Event().wait()

    async def linger(self) -> None:
        """Read what a client still sends, for a while: else the system would take our last answer away from it."""
        if self.connection.their_state is h11.SEND_BODY:
            self._writer.write_eof()
            left = _MOST_UNREAD_BYTES
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SECONDS_TO_LINGER):
                    while left > 0 and (data := await self._reader.read(_AT_ONCE)):
                        left -= len(data)

    async def send(self, answer: Local, extra: Headers, closing: bool) -> int:
        """Send a whole answer; return its status."""
        headers = [(name.encode(), value.encode()) for name, value in answer.headers]
        await self.begin(answer.status, [*headers, (b"content-length", b"%d" % len(answer.body)), *extra], closing)
        await self.write_body(answer.body)
        await self.write(h11.EndOfMessage())
        return answer.status

    async def begin(self, status: int, headers: Headers, closing: bool) -> None:
        """Send the head of an answer. A body that was not read to its end makes this the connection's last one."""
        unread = self.connection.their_state not in {h11.DONE, h11.MUST_CLOSE, h11.CLOSED}
        last = [(b"connection", b"close")] if closing or unread else []
        await self.write(h11.Response(status_code=status, headers=[*headers, *_COMMON, *last]))

    async def write_body(self, data: bytes) -> None:
        """Send a piece of a body, but to who asked for the head alone."""
        if not self.head_only:
            await self.write(h11.Data(data=data))

    async def write(self, event: h11.Event) -> None:
        """Send one event, when the client has read enough of those before."""
        if data := self.connection.send(event):
            self._writer.write(data)
            await self._writer.drain()
