"""Machines on one machine: network namespaces, each with an address of its own behind a virtual cable."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator


def why_not() -> str | None:
    """Say why there can be none here; None when there can."""
    if shutil.which("ip") is None:
        return "needs the program ip (iproute2)"
    if os.geteuid() != 0:
        return "needs root for network namespaces"
    try:
        with machine(200):
            return None
    except subprocess.CalledProcessError as error:
        return f"network namespaces cannot be made here: {error.stderr.decode().strip()}"


@contextlib.contextmanager
def machine(number: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the address of a new machine (1 to 250), and what to put before a command to run it there."""
    tag = f"{os.getpid() % 100_000}x{number}"
    name, here, there = f"ggufkit-{tag}", f"gk{tag}", f"gt{tag}"
    network = f"10.{100 + os.getpid() % 100}.{number}"
    try:
        _ip("netns", "add", name)
        _ip("link", "add", here, "type", "veth", "peer", "name", there)
        _ip("link", "set", there, "netns", name)
        _ip("addr", "add", f"{network}.1/30", "dev", here)
        _ip("link", "set", here, "up")
        for arguments in (("addr", "add", f"{network}.2/30", "dev", there), ("link", "set", there, "up")):
            _ip("-n", name, *arguments)
        _ip("-n", name, "link", "set", "lo", "up")
        yield f"{network}.2", ("ip", "netns", "exec", name)
    finally:
        for arguments in (("link", "del", here), ("netns", "del", name)):
            subprocess.run(["ip", *arguments], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
