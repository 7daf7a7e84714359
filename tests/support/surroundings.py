"""The same work under other hash seeds, locales, folders, time zones, threads and umasks: the same bytes."""

import hashlib
import locale
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import handmade_checkpoint
import tiny_gguf

_COMMAND = [sys.executable, "-c", "from ggufkit.cli import main; main()"]


@dataclass(frozen=True)
class Surroundings:
    """Where and how a command runs."""

    environment: dict[str, str] = field(default_factory=dict)
    folder: str = "here"
    threads: int | None = None
    umask: int = 0o022
    absolute: bool = False


def _locales() -> list[str]:
    """List the locales of this machine that change letters or numbers, of those that have surprised programs."""
    known, before = [], locale.setlocale(locale.LC_ALL)
    for name in ("C", "C.UTF-8", "tr_TR.UTF-8", "de_DE.UTF-8"):
        try:
            locale.setlocale(locale.LC_ALL, name)
            known.append(name)
        except locale.Error:
            pass
    locale.setlocale(locale.LC_ALL, before)  # that of the tests, which read and write text
    return known


PLAIN = Surroundings()
ALL = [
    Surroundings({"PYTHONHASHSEED": "1", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, threads=1),
    Surroundings({"PYTHONHASHSEED": "4242", "TZ": "Pacific/Kiritimati"}, "Ordner mit Ä und Leerzeichen", 2, 0o077),
    Surroundings({"PYTHONHASHSEED": "7", "HOME": "/nowhere", "COLUMNS": "20", "TERM": "dumb"}, "a/b/c", 3, 0o002, True),
    Surroundings({"PYTHONOPTIMIZE": "2", "TMPDIR": "/dev/shm" if Path("/dev/shm").is_dir() else "/tmp"}, absolute=True),
    *(Surroundings({"LC_ALL": name, "LANG": name, "PYTHONHASHSEED": "random"}, name) for name in _locales()),
]
_JOBS = {
    "convert": ["convert", "{source}", "-o", "{out}/a.gguf"],
    "quantize": ["quantize", "Q4_K_M", "{wide}", "-o", "{out}/b.gguf"],
    "one pass": ["quantize", "Q8_0", "{source}", "-o", "{out}/c.gguf"],
    "direct": ["quantize", "Q5_K_S", "{wide}", "-o", "{out}/d.gguf", "--engine", "direct"],
    "export": ["export", "ollama", "{wide}", "m", "--store", "{out}/store", "--copy"],
}


class Work:
    """Does the jobs; what they read is copied to where they run, so that no path is the same."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._source = handmade_checkpoint.write(folder / "original" / "checkpoint")
        self._wide = tiny_gguf.write_model(folder / "original" / "wide-F16.gguf")

    def digests(self, chosen: Surroundings) -> dict[str, str]:
        """Do all jobs, and hash all files that come of it."""
        folder = self._folder / "work" / chosen.folder
        shutil.rmtree(self._folder / "work", ignore_errors=True)
        folder.mkdir(parents=True)
        shutil.copytree(self._source, folder / "checkpoint")
        shutil.copyfile(self._wide, folder / "wide-F16.gguf")
        (folder / "out").mkdir()
        base = str(folder) if chosen.absolute else "."
        for job, words in _JOBS.items():
            values = {"source": f"{base}/checkpoint", "wide": f"{base}/wide-F16.gguf", "out": f"{base}/out"}
            arguments = [word.format(**values) for word in words]
            if chosen.threads and job != "export":
                arguments += ["-t", str(chosen.threads)]
            environment = {**os.environ, **chosen.environment}
            done = subprocess.run(
                [*_COMMAND, *arguments],
                cwd=folder,
                env=environment,
                umask=chosen.umask,
                capture_output=True,
                check=False,
            )
            assert done.returncode == 0, (chosen, done.stderr.decode("utf-8", "replace"))
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted((folder / "out").rglob("*"))
            if path.is_file() and not path.name.startswith(".")
        }
