"""The whole server: sockets first, then the model, then requests; and at the end the other way round."""

import asyncio
import errno
import json
import os
import socket
import tempfile
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path

from ggufkit.counting import counted
from ggufkit.errors import OutputError, UsageError
from ggufkit.inference import placement
from ggufkit.inference.model_file import check_model_file
from ggufkit.inference.placement import Placement
from ggufkit.inference.serving import own_answers
from ggufkit.inference.serving.backend import Backend
from ggufkit.inference.serving.client import Local
from ggufkit.inference.serving.exchange import Headers, UpstreamError
from ggufkit.inference.serving.gate import Gate, Upstream
from ggufkit.inference.serving.options import ServeOptions, check_template, read_template
from ggufkit.inference.serving.rules import Head, Refusal, Rules
from ggufkit.inference.serving.settings import for_embeddings, llama_server_options, placed
from ggufkit.inference.supervisor import Patience, State
from ggufkit.inference.template_trial import refuse_bombs
from ggufkit.llamacpp import find, server
from ggufkit.llamacpp.server import LlamaServerOptions

_LONGEST_FOLDER = 60
_EMBEDDING_PATHS = {"/v1/embeddings", "/embeddings", "/embedding"}


class Server:
    """A model served. `listen`, then `run`; both once."""

    def __init__(
        self,
        model: Path,
        options: ServeOptions,
        *,
        tell: Callable[[str], None] = lambda _: None,
        log: Callable[[str], None] = lambda _: None,
        patience: Patience | None = None,
    ) -> None:
        """Look at the model and the build; nothing is started yet.

        Args:
            model: a GGUF file; of a split model, the first one.
            options: how it is served.
            tell: gets sentences for people.
            log: gets a line for each request, and what llama-server writes.
            patience: how often llama-server may die.

        Raises:
            GgufFileError: the file is none that can be served.
            TemplateBombError: its chat template would keep llama-server busy for ever, or end it.
            MissingDependencyError: there is no llama-server.
        """
        self.options = options
        self.header = check_model_file(model)
        check_template(options.chat_template, options.template_arguments)
        chosen = read_template(options.chat_template) if options.chat_template else None
        refuse_bombs(self.header, chosen, json.loads(options.template_arguments or "{}"))
        self.model = model
        self.placement: Placement | None = None
        find.find().tool(server.PROGRAM)
        self._tell, self._log, self._patience = tell, log, patience
        self._sockets: list[socket.socket] = []
        self._backends: dict[str, Backend] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._has_page: bool | None = None
        self._gate = Gate(self._rules(), self._route, log)

    @property
    def name(self) -> str:
        """Return the model's name for clients."""
        return self.options.alias or self.model.stem

    @property
    def url(self) -> str:
        """Return where it listens, as a browser on this machine would write it."""
        host, port = self._sockets[0].getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def pids(self) -> list[int]:
        """Return the processes that serve: this one, and the programs that run now."""
        children = [backend.supervisor.child for backend in self._backends.values()]
        return [os.getpid(), *(child.pid for child in children if child is not None and child.status is None)]

    def listen(self) -> None:
        """Take the port, before minutes are spent on loading.

        Raises:
            UsageError: the host has no address.
            OutputError: the port is taken, or not ours to take.
        """
        host, port = self.options.host.strip("[]"), self.options.port
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (OSError, UnicodeError):
            raise UsageError(f"--host {host}: there is no such address") from None
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listener = socket.socket(family, kind, protocol)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                listener.bind((address[0], port, *address[2:]))
                listener.listen(256)
            except OSError as error:
                listener.close()
                if family == socket.AF_INET6 and self._sockets:
                    continue  # `localhost` on a machine without IPv6
                self.close()
                taken = "end the program that uses it (ss -ltnp shows which), or take another --port; 0: any"
                raise OutputError(
                    f"cannot listen on {host}:{port}: {(error.strerror or str(error)).lower()}",
                    hint=taken if error.errno == errno.EADDRINUSE else "--host 127.0.0.1 --port 8080",
                ) from None
            port = listener.getsockname()[1]  # the same one for all addresses
            self._sockets.append(listener)

    def close(self) -> None:
        """Give the port back; needed only where `run` was not called."""
        for listener in self._sockets:
            listener.close()
        self._sockets.clear()

    async def run(self, stop: asyncio.Event, *, on_ready: Callable[[], None] = lambda: None) -> int:
        """Serve until `stop` is set, then let running requests end; return how many had to be cut off.

        Raises:
            LlamaCppError: llama-server does not load the model, or dies again and again.
        """
        with tempfile.TemporaryDirectory(prefix="ggufkit-", dir=_short_folder()) as folder:
            main = self._backend("model", self._settings(Path(folder)))
            gate = self._gate
            listeners = [await asyncio.start_server(gate.serve, sock=listener) for listener in self._sockets]
            stopped, ready = asyncio.ensure_future(stop.wait()), asyncio.ensure_future(main.ready())
            try:
                running = self._running["model"]
                await asyncio.wait({stopped, ready, running}, return_when=asyncio.FIRST_COMPLETED)
                if ready.done():
                    on_ready()
                    await asyncio.wait({stopped, running}, return_when=asyncio.FIRST_COMPLETED)
                if running.done():
                    running.result()
                for listener in listeners:
                    listener.close()
                if gate.counts.running:
                    self._tell(
                        f"waiting for {counted(gate.counts.running, 'running request')},"
                        f" at most {self.options.drain_seconds:g} s"
                    )
                return await gate.drain(self.options.drain_seconds)
            finally:
                for listener in listeners:
                    listener.close()
                await gate.drain(0)
                tasks = [stopped, ready, *self._running.values()]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def _settings(self, folder: Path) -> LlamaServerOptions:
        planned = llama_server_options(self.model, self.header, self.options, folder)
        engine = replace(self.options.engine, context_size=planned.context_size // planned.slots)
        self.placement = placement.resolve(self.model, self.header, engine, planned.slots)
        for warning in self.placement.warnings:
            self._tell(f"warning: {warning}")
        for line in self.placement.lines:
            self._tell(line)
        return placed(planned, self.header, self.placement)

    def _backend(self, name: str, options: LlamaServerOptions) -> Backend:
        backend = Backend(options, tell=self._tell, log=self._log, patience=self._patience)
        self._backends[name] = backend
        self._running[name] = asyncio.ensure_future(backend.run())
        return backend

    def _rules(self) -> Rules:
        options = self.options
        public = frozenset(own_answers.PAGE) if options.page else frozenset()
        hosts = tuple(host.lower() for host in (*options.hosts, options.host))
        return Rules(keys=options.keys, is_local=options.is_local, hosts=hosts, origins=options.origins, public=public)

    async def _route(self, head: Head, headers: Headers, body: bytes) -> Local | Upstream:
        main = self._backends["model"]
        if head.path in own_answers.HEALTH:
            return own_answers.health(main)
        if head.path == "/metrics":
            return await own_answers.metrics(self._backends, self._gate.counts)
        if self.options.page and head.path in own_answers.PAGE and head.method in {"GET", "HEAD"}:
            return await self._page(main, head, headers)
        if main.supervisor.state is State.LOADING:
            return Local.refusal(Refusal(503, "unavailable_error", "Loading model", (("Retry-After", "1"),)))
        if head.path.startswith(f"{own_answers.MODELS}/") and head.method in {"GET", "HEAD"}:
            try:
                return await own_answers.one_model(main, head)
            except UpstreamError:
                return Local.refusal(Refusal(503, "unavailable_error", "the model stopped", (("Retry-After", "1"),)))
        backend = self._for_embeddings(main) if head.path in _EMBEDDING_PATHS else main
        return Upstream(backend.ask(head.method, head.target, headers, body))

    async def _page(self, main: Backend, head: Head, headers: Headers) -> Local | Upstream:
        """Show llama.cpp's own page where the build has it, else ours."""
        if self._has_page is None and main.is_ready:
            async with main.ask("HEAD", "/", [(b"accept-encoding", b"gzip")], b"") as answer:
                self._has_page = answer.status == HTTPStatus.OK
        if self._has_page and not self.options.keys:  # its files would need one
            return Upstream(main.ask(head.method, head.target, headers, b""))
        return own_answers.page(head)

    def _for_embeddings(self, main: Backend) -> Backend:
        if main.options.embeddings or not self.options.embeddings:
            return main
        running = self._running.get("embeddings")
        if running is None or running.done():  # of one that failed, too, the next request tries it again
            return self._backend("embeddings", for_embeddings(main.options, self.options.engine))
        return self._backends["embeddings"]


def _short_folder() -> str | None:
    """Name a folder for sockets, whose paths may have a hundred bytes; None for the usual one."""
    return "/tmp" if len(tempfile.gettempdir()) > _LONGEST_FOLDER else None  # noqa: S108 - a private one is made in it
