"""Lending this machine's memory and compute to ggufkit or llama.cpp on other machines."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from ggufkit.inference.supervisor import Patience, State, Supervisor
from ggufkit.llamacpp import rpc, rpc_server
from ggufkit.llamacpp.rpc_server import WorkerOptions


async def lend(
    options: WorkerOptions,
    stop: asyncio.Event,
    *,
    on_ready: Callable[[rpc.Worker], None] = lambda _: None,
    on_line: Callable[[str], None] = lambda _: None,
    patience: Patience | None = None,
) -> None:
    """Lend until `stop` is set. A worker that dies, as on a client's nonsense, is started again.

    Args:
        options: what, and where.
        stop: ends it.
        on_ready: told what is offered, each time that it begins.
        on_line: told what the program writes, and what happens to it.
        patience: how often it may die.

    Raises:
        UsageError: the host is no IPv4 address, or there is no device of a name.
        OutputError: the port cannot be had.
        MissingDependencyError: the build has no worker.
        LlamaCppError: it does not start, or dies again and again.
    """
    if options.devices:
        from ggufkit.llamacpp.native.placement import devices_named

        devices_named(options.devices)
    options = replace(options, port=rpc_server.free_port(options))
    endpoint = rpc.Endpoint(rpc_server.address(options.host).replace("0.0.0.0", "127.0.0.1"), options.port)  # noqa: S104

    async def answers() -> bool:
        try:
            worker = await asyncio.to_thread(rpc.ask, endpoint)
        except rpc.UnreachableError:
            return False
        except rpc.BusyError:  # another machine was faster, which proves as much
            worker = rpc.Worker(endpoint, "", ())
        on_ready(worker)
        return True

    def told(_state: State, text: str) -> None:
        if text:
            on_line(text)

    supervisor = Supervisor(
        lambda on_end: rpc_server.start(options, on_line, on_end), answers, on_state=told, patience=patience
    )
    running = asyncio.ensure_future(supervisor.run())
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
    finally:
        stopped.cancel()
        running.cancel()
        await asyncio.gather(running, stopped, return_exceptions=True)
