"""llama.cpp's ggml-rpc-server: the program that lends this machine's memory and compute to others."""

import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ggufkit.errors import OutputError, UsageError
from ggufkit.llamacpp import cpu, find, rpc
from ggufkit.llamacpp.child import Child

PROGRAM = "ggml-rpc-server"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What a worker offers, and where.

    Attributes:
        host: IPv4 address or name of the interface to listen on; 0.0.0.0 for all.
        port: 0 for any that is free.
        threads: CPU threads. None: the physical cores that this process may use.
        devices: names of the devices to lend, as `ggufkit doctor` shows them; empty: the GPUs, else the CPU.
        cache: keep large tensors on disk, so that they need not be sent again.
    """

    host: str = "127.0.0.1"
    port: int = rpc.DEFAULT_PORT
    threads: int | None = None
    devices: tuple[str, ...] = ()
    cache: bool = False

    @property
    def is_local(self) -> bool:
        """Tell whether only programs of this machine can connect."""
        return ipaddress.ip_address(address(self.host)).is_loopback


def argv(program: Path, options: WorkerOptions) -> list[str]:
    """Return the command; `options.port` must be a real one."""
    words = [str(program), "--host", address(options.host), "--port", str(options.port)]
    words += ["--threads", str(options.threads or cpu.usable_cores())]
    if options.devices:
        words += ["--device", ",".join(options.devices)]
    return [*words, "--cache"] if options.cache else words


def start(options: WorkerOptions, on_line: Callable[[str], None], on_end: Callable[[], None]) -> Child:
    """Start the program. It survives clients that vanish while it answers them.

    Raises:
        MissingDependencyError: the build lacks it.
        LlamaCppError: it could not be started.
    """
    command = argv(find.find().tool(PROGRAM), options)
    return Child(command, on_line=on_line, on_end=on_end, ignore_broken_pipes=True)


def free_port(options: WorkerOptions) -> int:
    """Return the port to listen on: the one asked for when it is free, or any for 0.

    Raises:
        OutputError: it is taken, or belongs to the system, or the address is not this machine's.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address(options.host), options.port))
        except OSError as error:
            raise OutputError(
                f"cannot listen on {options.host}:{options.port}: {(error.strerror or str(error)).lower()}",
                hint="another --port, or --port 0 for any that is free; --host is an address of this machine",
            ) from None
        return int(probe.getsockname()[1])


def address(host: str) -> str:
    """Return the IPv4 address of a name: ggml-rpc-server takes nothing else. Raises UsageError."""
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UsageError(
            f"--host {host} is no IPv4 address and no name of one: llama.cpp's RPC knows no other"
        ) from None
    return str(found[0][4][0])
