"""The zip archive that a `.bin` file is: checked before torch sees it, and where in the file a mapped tensor lies."""

import os
import zipfile
from pathlib import Path

from ggufkit.errors import CheckpointError

_MOST_MEMBERS = 1 << 20
_LARGEST_PICKLE = 256 << 20  # it names tensors, and holds none of them


def check_archive(path: Path) -> None:
    """Refuse an archive that torch did not write: members compressed, overlapping, or larger than the file.

    Raises:
        CheckpointError: it is such a one, or damaged.
    """
    again = f"download {path.name} again"
    try:
        total = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"cannot read {path}: {error}", hint=again) from None
    if len(members) > _MOST_MEMBERS:
        raise CheckpointError(f"{path} holds {len(members):,} members, more than any model", hint=again)
    if member := next((m for m in members if m.compress_type != zipfile.ZIP_STORED or m.flag_bits & 1), None):
        raise CheckpointError(f"{path}: {member.filename!r:.100} is compressed or encrypted, which torch never does")
    if sum(member.file_size for member in members) > total:
        raise CheckpointError(f"{path}: its members are larger than the file", hint=again)
    pickles = [member for member in members if member.filename.endswith(".pkl")]
    if any(member.file_size > _LARGEST_PICKLE for member in pickles):
        raise CheckpointError(f"{path}: its list of tensors is larger than that of any model", hint=again)


class MappedFile:
    """Where torch has mapped a file: turns addresses into offsets, so that bytes can be read without touching them.

    Touching a mapped page beyond the end of a file that somebody cut short ends the process.
    """

    def __init__(self, path: Path) -> None:
        self._places: list[tuple[int, int, int]] = []
        self._name = os.path.realpath(path)

    def offset(self, address: int) -> int | None:
        """Tell at which byte of the file an address lies; None where the system does not say."""
        for attempt in range(2):
            for start, end, offset in self._places:
                if start <= address < end:
                    return offset + address - start
            if attempt == 0:
                self._places = _mapped(self._name)
        return None


def _mapped(name: str) -> list[tuple[int, int, int]]:
    try:
        lines = Path("/proc/self/maps").read_bytes().splitlines()
    except OSError:
        return []
    places = []
    for line in lines:
        parts = line.split(maxsplit=5)
        if len(parts) == 6 and parts[5] == os.fsencode(name):
            start, _, end = parts[0].partition(b"-")
            places.append((int(start, 16), int(end, 16), int(parts[2], 16)))
    return places
