"""A disk of a few megabytes that can be filled to the last byte: a tmpfs. Needs root."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Self


def why_not() -> str:
    """Say why this machine cannot do it; empty if it can."""
    if os.geteuid():
        return "needs root, to mount a disk"
    if not shutil.which("mount"):
        return "no mount"
    with tempfile.TemporaryDirectory() as folder:
        try:
            with SmallDisk(Path(folder) / "disk", 1 << 20):
                return ""
        except subprocess.CalledProcessError as error:
            return f"a disk cannot be mounted here: {error.stderr.decode('utf-8', 'replace').strip()}"


class SmallDisk:
    """Mounted on `mounted` until the `with` block ends."""

    def __init__(self, mounted: Path, size: int) -> None:
        self.mounted, self._size = mounted, size
        self._ballast = mounted / "ballast"

    def __enter__(self) -> Self:
        self.mounted.mkdir(parents=True)
        options = f"size={self._size}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", self.mounted], check=True, capture_output=True)
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "-l", self.mounted], check=False, capture_output=True)

    def fill(self, *, but: int = 0) -> None:
        """Take all the room that there is, but for so many bytes."""
        room = shutil.disk_usage(self.mounted).free - but
        with self._ballast.open("wb") as file, contextlib.suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, max(1, room))

    def free(self) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)
