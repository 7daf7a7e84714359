"""The `ggufkit` command in processes that need no time to start, and in which faults happen: forks of one that is warm.

A fork is an ordinary process of the command, from the parsing of its arguments to the interpreter's end; only the
imports were done before.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from syscall_faults import Call, Decide, Watch, listen

_MARK = "GGUFKIT_TEST_RUN"
_PROCESS = b"process "
_SECONDS = 120.0
_MODULES = (
    *("ggufkit.cli", "ggufkit.one_pass", "ggufkit.quantization.direct", "ggufkit.quantization.check"),
    *("ggufkit.conversion.execute", "ggufkit.checkpoints.vocabulary", "ggufkit.gguf_file.edit"),
    *("ggufkit.exports.ollama", "rich.progress", "gguf", "numpy", "concurrent.futures", "jinja2", "tempfile"),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended: `status` is its exit code, or minus the signal's number."""

    status: int
    out: str
    err: str
    calls: tuple[Call, ...]
    seconds: float
    survivors: tuple[int, ...]  # processes of the run that lived on, and were killed then

    def problems(self, *, codes: Sequence[int]) -> list[str]:
        """Say what is wrong with an end: the code, more than a line and a hint, a traceback, processes left."""
        said = self.err.strip()
        found = [f"exit {self.status}, not {codes}: {said[-300:]!r}"] if self.status not in codes else []
        if "Traceback" in said or "bug in ggufkit" in said or "Exception ignored" in said:
            found.append(f"stderr: {said[-400:]!r}")
        errors = [line for line in said.splitlines() if line.startswith("error:")]
        if self.status > 0 and self.status not in {130, 143, 129} and len(errors) != 1:
            found.append(f"not one line of error: {said[-300:]!r}")
        if self.survivors:
            found.append(f"processes left: {self.survivors}")
        return found


class CommandServer:
    """Runs `ggufkit` with arguments, in a folder, one command at a time."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # one message, one read
        self._socket = ours
        command = [sys.executable, __file__, str(theirs.fileno())]
        self._process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        )
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.wait()

    def run(
        self,
        arguments: Sequence[str | Path],
        *,
        folder: Path,
        decide: Callable[[Callable[[], int]], Decide] | None = None,
        watched: Sequence[Path] = (),
        reads: bool = False,
        after: tuple[float, int] | None = None,
        environment: Mapping[str, str | None] | None = None,
        umask: int = 0o022,
        largest_file: int | None = None,
        powerless: bool = False,
    ) -> Outcome:
        """Run a command to its end.

        Args:
            arguments: what follows `ggufkit`.
            folder: where it runs.
            decide: is given a function that tells the command's process, and decides about its calls.
            watched: folders whose calls are decided about; default: `folder`.
            reads: decide about the calls that read, not about those that write.
            after: seconds, and a signal that the process gets then.
            environment: added to ours; None takes a variable away.
            umask: the process's.
            largest_file: bytes that a file may have, as with `ulimit -f`.
            powerless: whether it obeys the permissions of files, even as root.
        """
        mark = uuid.uuid4().hex
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            request = {
                "arguments": [os.fspath(argument) for argument in arguments],
                "folder": str(folder),
                "environment": {**(environment or {}), _MARK: mark},
                "watch": decide is not None,
                "reads": reads,
                "umask": umask,
                "largest_file": largest_file,
                "powerless": powerless,
            }
            started = time.monotonic()
            socket.send_fds(self._socket, [json.dumps(request).encode()], [out.fileno(), err.fileno()])
            answer, descriptors, _, _ = socket.recv_fds(self._socket, 100, 1)
            assert answer.startswith(_PROCESS), f"the command could not be started: {answer!r}"
            process = int(answer.removeprefix(_PROCESS))
            timers = [threading.Timer(_SECONDS, _kill, (process, signal.SIGKILL))]
            if after:
                timers.append(threading.Timer(after[0], _kill, (process, after[1])))
            for timer in timers:
                timer.daemon = True
                timer.start()
            watch = None
            if decide:
                folders = [path.resolve() for path in watched or [folder]]
                watch = Watch(descriptors[0], folders, decide(lambda: process), reads=reads)
                watcher = threading.Thread(target=watch.run, daemon=True)
                watcher.start()
            status = int(self._socket.recv(100))
            seconds = time.monotonic() - started
            for timer in timers:
                timer.cancel()
                timer.join()
            survivors = _survivors(mark)
            if watch:
                watcher.join(10)
                os.close(descriptors[0])
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode("utf-8", "replace"))
        calls = tuple(watch.calls) if watch else ()
        return Outcome(status, texts[0], texts[1], calls, seconds, survivors)


def _kill(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


def _survivors(mark: str) -> tuple[int, ...]:
    """Find processes of a run that are there two seconds after it, and kill them."""
    word = f"{_MARK}={mark}".encode()
    end = time.monotonic() + 2
    while True:
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if word in path.read_bytes():
                    found.append(int(path.parent.name))
        if not found:
            return ()
        if time.monotonic() > end:
            for process in found:
                _kill(process, signal.SIGKILL)
            return tuple(found)
        time.sleep(0.02)


# ---- what runs in the server's process


def _serve(channel: socket.socket) -> None:
    for name in _MODULES:
        with contextlib.suppress(ImportError):
            __import__(name)
    from ggufkit.cli import main

    while True:
        content, descriptors, _, _ = socket.recv_fds(channel, 1 << 20, 2)
        if not content:
            os._exit(0)
        process = os.fork()
        if process == 0:
            _become(json.loads(content), channel, descriptors)
            main()  # ends with SystemExit, and the interpreter as it would for the command
        for descriptor in descriptors:
            os.close(descriptor)
        _, status = os.waitpid(process, 0)
        with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more: the next read ends this
            channel.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(request: dict, channel: socket.socket, descriptors: list[int]) -> None:
    """Make this process what the command's would be."""
    ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)  # the tests' end is ours
    null = os.open(os.devnull, os.O_RDONLY)
    for number, descriptor in enumerate([null, *descriptors]):
        os.dup2(descriptor, number)
        os.close(descriptor)
    for name, value in request["environment"].items():
        os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
    sys.argv = ["ggufkit", *request["arguments"]]
    os.chdir(request["folder"])
    os.umask(request["umask"])
    if request["largest_file"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"], request["largest_file"]))
    if request["powerless"] and os.geteuid() == 0:
        _give_up_powers()
    listener = [listen(reads=request["reads"])] if request["watch"] else []
    socket.send_fds(channel, [_PROCESS + str(os.getpid()).encode()], listener)
    for descriptor in [*listener, channel.fileno()]:
        os.close(descriptor)


def _give_up_powers() -> None:
    """Drop root's capabilities to read, write and own what it likes (CAP_CHOWN … CAP_FOWNER), for children too."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = struct.pack("=Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    libc.capget(header, sets)
    words = list(struct.unpack("=6I", sets.raw))
    for number in range(4):
        libc.prctl(24, number, 0, 0, 0)  # PR_CAPBSET_DROP
        words = [word & ~(1 << number) if place < 3 else word for place, word in enumerate(words)]
    if libc.capset(header, struct.pack("=6I", *words)):
        raise OSError(ctypes.get_errno(), "capset")


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    _serve(socket.socket(fileno=int(sys.argv[1])))
