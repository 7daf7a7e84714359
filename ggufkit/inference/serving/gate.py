"""The HTTP front of a server: one connection of a client, its requests judged, answered or passed on."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus

import h11

from ggufkit.inference.serving import rules
from ggufkit.inference.serving.client import Client, Local
from ggufkit.inference.serving.exchange import Answer, Headers, UpstreamError
from ggufkit.inference.serving.patterns import refuse_patterns
from ggufkit.inference.serving.rules import Head, Refusal, Rules

_LARGE = 1 << 16
_SECONDS_IDLE = 120.0
_SECONDS_TO_END = 5.0
_CUT_OFF = b'data: {"error": {"message": "the model stopped unexpectedly", "type": "server_error", "code": 503}}\n\n'

Route = Callable[[Head, Headers, bytes], Awaitable["Local | Upstream"]]


@dataclass(frozen=True, slots=True)
class Upstream:
    """The request goes to a program behind the gate; `asked` is entered for its answer."""

    asked: contextlib.AbstractAsyncContextManager[Answer]


@dataclass(slots=True)
class Counts:
    """What went through, for /metrics and for whoever waits for the last request to end."""

    answered: dict[int, int] = field(default_factory=dict)
    running: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self) -> None:
        """Count a request that is being worked on."""
        self.running += 1
        self.idle.clear()

    def end(self, status: int) -> None:
        """Count it as answered."""
        self.answered[status] = self.answered.get(status, 0) + 1
        self.running -= 1
        if not self.running:
            self.idle.set()


class Gate:
    """Serves connections. `log` gets a line for each request; it holds no header, no body and no query."""

    def __init__(self, rules_: Rules, route: Route, log: Callable[[str], None]) -> None:
        self.counts = Counts()
        self.draining = False
        self._rules, self._route, self._log = rules_, route, log
        self._connections: set[asyncio.Task[None]] = set()
        self._waiting: set[asyncio.Task[None]] = set()  # those between two requests

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end; what asyncio calls for each."""
        task = asyncio.current_task()
        if task is None:
            return
        self._connections.add(task)
        try:
            client = Client(reader, writer)
            while await self._serve_one(client, task) and not self.draining:
                client.connection.start_next_cycle()
            await client.linger()
        except (OSError, h11.LocalProtocolError, asyncio.CancelledError, asyncio.IncompleteReadError):
            pass  # the client left, or the server ends: nobody is there to be told
        except Exception as error:  # noqa: BLE001 - a bug ends one connection, not the server
            self._log(f"a bug in ggufkit: {type(error).__name__}: {error}")
        finally:
            self._waiting.discard(task)
            with contextlib.suppress(OSError, RuntimeError, TimeoutError):
                writer.close()
                await asyncio.wait_for(writer.wait_closed(), _SECONDS_TO_END)  # the end of the last answer goes out
            self._connections.discard(task)

    async def drain(self, seconds: float) -> int:
        """Take no more requests and wait for those that run; return how many were still running at the end."""
        self.draining = True
        for task in tuple(self._waiting):
            task.cancel()
        if self.counts.running:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.counts.idle.wait(), seconds)
        left = self.counts.running
        for task in tuple(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        return left

    async def _serve_one(self, client: Client, task: asyncio.Task[None]) -> bool:
        """Serve one request; return whether the connection can take another."""
        self._waiting.add(task)
        try:
            event = await client.next_event(_SECONDS_IDLE)
        except h11.RemoteProtocolError as error:
            return await self._protest(client, error)
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(task)
        if not isinstance(event, h11.Request):
            return False
        head = Head(
            event.method.decode("latin-1"),
            event.target.decode("latin-1"),
            {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers},
        )
        client.head_only = head.method == "HEAD"
        started, status = time.monotonic(), 0
        self.counts.begin()
        try:
            status = await self._handle(client, head, list(event.headers))
        except h11.RemoteProtocolError as error:
            return await self._protest(client, error)
        finally:
            self.counts.end(status)
            self._log(f"{status or 'gone'} {head.method} {head.path} {(time.monotonic() - started) * 1000:.0f} ms")
        states = (client.connection.our_state, client.connection.their_state)
        return states == (h11.DONE, h11.DONE)

    async def _handle(self, client: Client, head: Head, headers: Headers) -> int:
        refusal = self._rules.refuse(head)
        body = b""
        if refusal is None:
            try:
                body = await client.body(head, rules.MOST_BODY_BYTES)
            except TimeoutError:
                refusal = Refusal(408, "invalid_request_error", "the body did not come")
            except OverflowError:
                megabytes = rules.MOST_BODY_BYTES >> 20
                refusal = Refusal(413, "invalid_request_error", f"the body may have {megabytes} MiB")
        if refusal is None and head.method == "POST":
            if len(body) > _LARGE:  # big ones would hold up the others
                refusal = await asyncio.to_thread(rules.refuse_body, head, body)
            else:
                refusal = rules.refuse_body(head, body)
            if refusal is None and b'"pattern"' in body:
                refusal = await asyncio.to_thread(refuse_patterns, body)
        extra = self._cross_origin(head)
        if refusal is not None:
            return await client.send(Local.refusal(refusal), extra, self.draining)
        if head.method == "OPTIONS":
            return await client.send(Local(204, (), b""), extra, self.draining)
        answer = await self._route(head, headers, body)
        if isinstance(answer, Local):
            return await client.send(answer, extra, self.draining)
        return await self._relay(client, answer, extra)

    async def _relay(self, client: Client, upstream: Upstream, extra: Headers) -> int:
        """Pass an answer on. A client that leaves meanwhile ends the work on it."""
        begun: list[int] = []

        async def pass_on() -> int:
            is_stream = False
            try:
                async with upstream.asked as answer:
                    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                        return await client.send(await _judged(answer), extra, self.draining)
                    is_stream = any(value.startswith(b"text/event-stream") for _, value in answer.headers)
                    await client.begin(answer.status, [*answer.headers, *extra], self.draining)
                    begun.append(answer.status)
                    async for piece in answer.body:
                        await client.write_body(piece)
                    await client.write(h11.EndOfMessage())
                    return answer.status
            except UpstreamError:
                if not begun:
                    sorry = Refusal(503, "unavailable_error", "the model stopped unexpectedly", (("Retry-After", "1"),))
                    return await client.send(Local.refusal(sorry), extra, self.draining)
                if is_stream:
                    await client.write_body(_CUT_OFF)
                raise ConnectionAbortedError from None  # without the end of the body, so that the cut is seen

        passing = asyncio.ensure_future(pass_on())
        leaving = asyncio.ensure_future(client.gone())
        try:
            await asyncio.wait({passing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not passing.done():
                raise ConnectionResetError
            return passing.result()
        finally:
            for task in (passing, leaving):
                task.cancel()
            await asyncio.gather(passing, leaving, return_exceptions=True)

    async def _protest(self, client: Client, error: h11.RemoteProtocolError) -> bool:
        """Answer what is no HTTP, if that can still be done; the connection is closed then."""
        if client.connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            refusal = Refusal(error.error_status_hint, "invalid_request_error", f"this is no HTTP request: {error}")
            self.counts.begin()
            try:
                await client.send(Local.refusal(refusal), [], closing=True)
            finally:
                self.counts.end(refusal.status)
        return False

    def _cross_origin(self, head: Head) -> Headers:
        """Tell browsers that a page of another site may read the answer, where that is so."""
        origin = head.headers.get("origin")
        if origin is None or not self._rules.allows(origin, head.headers.get("host", "")):
            return []
        headers = [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"Origin")]
        if head.method == "OPTIONS":
            headers += [
                (b"access-control-allow-methods", b"GET, POST, DELETE"),
                (b"access-control-allow-headers", b"authorization, content-type, x-api-key"),
                (b"access-control-max-age", b"600"),
            ]
        return headers


async def _judged(answer: Answer) -> Local:
    """Take a failure from llama-server; one that is the client's becomes a refusal."""
    body = b"".join([piece async for piece in answer.body])
    if refusal := rules.blame(answer.status, body):
        return Local.refusal(refusal)
    kind = next((value.decode("latin-1") for name, value in answer.headers if name == b"content-type"), "text/plain")
    return Local(answer.status, (("Content-Type", kind),), body)
