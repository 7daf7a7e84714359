"""A llama-server behind the gate: started, watched, asked."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus

from ggufkit.errors import LlamaCppError
from ggufkit.inference.serving import exchange
from ggufkit.inference.serving.exchange import Answer, Headers, UpstreamError
from ggufkit.inference.supervisor import Patience, State, Supervisor
from ggufkit.llamacpp import rpc, server
from ggufkit.llamacpp.child import Child
from ggufkit.llamacpp.server import LlamaServerOptions

_SECONDS_TO_WAIT = 60.0  # for a program that is being started again


class Backend:
    """One llama-server. `run` keeps it alive until cancelled; `ask` may be called at any time."""

    def __init__(
        self,
        options: LlamaServerOptions,
        *,
        tell: Callable[[str], None],
        log: Callable[[str], None],
        patience: Patience | None = None,
    ) -> None:
        """Prepare one: `tell` gets sentences for people, `log` what llama-server writes."""
        self.options = options
        self._ready = asyncio.Event()
        self._tell, self._log = tell, log
        self.supervisor = Supervisor(
            self._start,
            self._answers,
            patience=patience,
            on_state=self._on_state,
            before_restart=self._check_workers if options.rpc_servers else None,
        )

    async def run(self) -> None:
        """Keep it alive. Raises LlamaCppError when it cannot be started, or dies too often; says why."""
        try:
            await self.supervisor.run()
        except LlamaCppError as error:
            raise await self._explained(error) from None
        finally:
            self._ready.clear()

    @property
    def is_ready(self) -> bool:
        """Tell whether it answers."""
        return self._ready.is_set()

    async def ready(self) -> None:
        """Return when it answers."""
        await self._ready.wait()

    @contextlib.asynccontextmanager
    async def ask(self, method: str, target: str, headers: Headers, body: bytes) -> AsyncIterator[Answer]:
        """Pass a request on; one that comes while it is started again waits for that. Raises UpstreamError."""
        try:
            await asyncio.wait_for(self._ready.wait(), _SECONDS_TO_WAIT)
        except TimeoutError:
            raise UpstreamError("it is not ready") from None
        async with exchange.ask(self.options.socket, method, target, headers, body) as answer:
            yield answer

    def _start(self, on_end: Callable[[], None]) -> Child:
        return server.start(self.options, self._log, on_end)

    async def _answers(self) -> bool:
        try:
            async with exchange.ask(self.options.socket, "GET", "/health", [], b"") as answer:
                return answer.status == HTTPStatus.OK
        except UpstreamError:
            return False

    def _on_state(self, state: State, text: str) -> None:
        if state is State.READY:
            self._ready.set()
        else:
            self._ready.clear()
        if text:
            self._tell(text)

    async def _check_workers(self) -> None:
        await asyncio.to_thread(rpc.check, rpc.endpoints(self.options.rpc_servers))

    async def _explained(self, error: LlamaCppError) -> LlamaCppError:
        """Say why it ended: what it wrote, or which of the workers that it used is gone."""
        if self.options.rpc_servers:
            for endpoint, found in await asyncio.to_thread(rpc.ask_all, rpc.endpoints(self.options.rpc_servers), 2.0):
                if isinstance(found, rpc.UnreachableError):
                    return LlamaCppError(f"the worker {endpoint} is gone, so {error}", hint=found.hint)
        return error
