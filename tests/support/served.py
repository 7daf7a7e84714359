"""`ggufkit serve` and `ggufkit worker` as processes of their own, started for a test and gone after it."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

COMMAND = [sys.executable, "-c", "from ggufkit.cli import main; main()"]
PATIENCE = 120.0  # of tests, on a machine that is busy with other things


@dataclass
class Running:
    """A program that said it was ready; `where` is what it said: a URL, or host and port."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    where: str = ""

    @property
    def port(self) -> int:
        return int(self.where.rpartition(":")[2])

    def children(self) -> list[int]:
        """Return its child processes."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end; return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def metric(self, name: str) -> float:
        """Return one of the figures in /metrics; the sum where there are several."""
        with urllib.request.urlopen(f"{self.where}/metrics") as answer:
            found = re.findall(rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)$", answer.read().decode(), re.MULTILINE)
        return sum(map(float, found))


@contextlib.contextmanager
def running(
    *arguments: str | Path, environment: dict[str, str] | None = None, prefix: tuple[str, ...] = ()
) -> Iterator[Running]:
    """Start the command with these arguments and wait until it is ready; it is killed in the end."""
    process = subprocess.Popen(
        [*prefix, *COMMAND, *map(str, arguments)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    started = Running(process)
    ready = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            started.lines.append(line.rstrip("\n"))
            if found := re.search(r"ready at (\S+:\d+)", line):
                started.where = found[1]
                ready.set()
        ready.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        assert ready.wait(PATIENCE), started.lines
        assert started.where, started.lines
        yield started
    finally:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        process.kill()
        process.wait()
        reader.join(10)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait until something is so; how long that takes is not what is tested."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)
