"""A disk whose power can be cut: ext4 in a file, stopped without its journal being written. Needs root."""

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Self

_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
_NO_LOG_FLUSH = 2
_MEGABYTES = 48


def why_not() -> str:
    """Say why this machine cannot do it; empty if it can."""
    if os.geteuid():
        return "needs root, for a loop device"
    missing = [name for name in ("mkfs.ext4", "mount", "umount") if not shutil.which(name, path=_path())]
    if missing:
        return f"no {missing[0]}"
    with tempfile.TemporaryDirectory() as folder:
        try:
            with Disk(Path(folder) / "disk"):
                return ""
        except (OSError, subprocess.CalledProcessError) as error:
            return f"no loop device with ext4 here: {error}"


class Disk:
    """Mounted on `mounted` until the `with` block ends."""

    def __init__(self, folder: Path) -> None:
        self._image = folder / "image"
        self.mounted = folder / "mounted"

    def __enter__(self) -> Self:
        self.mounted.mkdir(parents=True)
        with self._image.open("wb") as file:
            file.truncate(_MEGABYTES << 20)
        _run("mkfs.ext4", "-q", "-F", self._image)
        _run("mount", "-o", "loop", self._image, self.mounted)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            _run("umount", "-l", self.mounted)
        self._image.unlink(missing_ok=True)

    def settle(self) -> None:
        """See all that was written so far safely on the disk."""
        descriptor = os.open(self.mounted, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        os.sync()

    def cut(self) -> None:
        """Cut the power, and switch it on again."""
        descriptor = os.open(self.mounted, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(descriptor)
        _run("umount", self.mounted)
        _run("mount", "-o", "loop", self._image, self.mounted)


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PATH": _path()})
