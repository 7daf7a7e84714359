"""`ggufkit worker`: lend this machine's memory and compute to another one, or see what others lend."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggufkit.cli import _options, _output
from ggufkit.counting import counted

if TYPE_CHECKING:
    from ggufkit.llamacpp.rpc import Endpoint, Worker, WorkerError

_WARNING = (
    "the protocol has no authentication and no encryption, and whoever can connect can crash this program and "
    "may take it over: use it on a private network, or through an SSH tunnel or a VPN"
)


def command(
    list_workers: Annotated[
        list[str] | None,
        typer.Option(
            "--list",
            metavar="HOST:PORT,...",
            help="Show which of these answer, and what they offer.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option("--host", metavar="ADDRESS", help="IPv4 address to listen on; 0.0.0.0: all of this machine's."),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0: any that is free.")
    ] = 50052,
    threads: _options.Threads = None,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="NAME,...", help="Devices to lend; default: the GPUs, else the CPU."),
    ] = None,
    cache: Annotated[
        bool, typer.Option("--cache", help="Keep large tensors on this disk, so that they are sent only once.")
    ] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show what the worker writes.")] = False,
    json: _options.Json = False,
) -> None:
    """Lend this machine's memory and compute to `--rpc` of chat, generate and serve on another one.

    It serves one program at a time and goes on until Ctrl-C or SIGTERM. Anyone who can connect can use it: there is
    no authentication, so it belongs on a private network or in a tunnel.
    """
    if list_workers is not None:
        _list(list_workers, as_json=json)
        return
    import asyncio

    from ggufkit.cli import _until_stopped
    from ggufkit.inference.worker import lend
    from ggufkit.llamacpp.rpc_server import WorkerOptions

    options = WorkerOptions(
        host=host,
        port=port,
        threads=threads,
        devices=tuple(name for name in (device or "").split(",") if name),
        cache=cache,
    )

    def ready(worker: "Worker") -> None:
        where = f"{host}:{worker.endpoint.port}"
        if json:
            _output.print_json({"endpoint": where, "pid": _pid(), "devices": _devices(worker)})
            return
        offered = ", ".join(f"{_output.size(device.memory_free)} free" for device in worker.devices)
        _output.note(f"worker ready at {where}: {offered or 'in use'}   (Ctrl-C ends it)")

    def line(text: str) -> None:
        if verbose or "starting it again" in text:
            _output.note(text)

    _output.warn(_WARNING if options.is_local else f"listening on {host}, where others can connect: {_WARNING}")

    async def work(stop: asyncio.Event) -> None:
        await lend(options, stop, on_ready=ready, on_line=line)

    if status := _until_stopped.run(work):
        raise typer.Exit(status)


def _list(texts: list[str], *, as_json: bool) -> None:
    from ggufkit.errors import InputError
    from ggufkit.llamacpp import rpc

    answers = rpc.ask_all(rpc.endpoints(texts))
    if as_json:
        _output.print_json({"workers": [_plain(endpoint, answer) for endpoint, answer in answers]})
    else:
        width = max((len(str(endpoint)) for endpoint, _ in answers), default=0)
        for endpoint, answer in answers:
            print(f"{endpoint!s:{width}}  {_line(answer)}")
    lacking = sum(not isinstance(answer, rpc.Worker) for _, answer in answers)
    if lacking:
        raise typer.Exit(InputError.exit_code)


def _line(answer: "Worker | WorkerError") -> str:
    from ggufkit.llamacpp.rpc import Worker

    if not isinstance(answer, Worker):
        return f"not usable: {answer}"
    devices = ", ".join(
        f"{_output.size(device.memory_free)} free of {_output.size(device.memory_total)}" for device in answer.devices
    )
    return f"ready, protocol {answer.version}, {counted(len(answer.devices), 'device')}: {devices}"


def _plain(endpoint: "Endpoint", answer: "Worker | WorkerError") -> dict[str, Any]:
    from ggufkit.llamacpp.rpc import Worker

    if isinstance(answer, Worker):
        return {
            "endpoint": str(endpoint),
            "usable": True,
            "protocol": answer.version,
            "devices": _devices(answer),
        }
    return {"endpoint": str(endpoint), "usable": False, "reason": str(answer)}


def _devices(worker: "Worker") -> list[dict[str, int]]:
    return [{"memory_free": each.memory_free, "memory_total": each.memory_total} for each in worker.devices]


def _pid() -> int:
    import os

    return os.getpid()
