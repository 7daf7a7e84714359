"""Fetching the pinned source distribution, checking it, and unpacking the llama.cpp tree that it carries."""

import hashlib
import os
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from ggufkit.errors import InputError, UnsafeError
from ggufkit.llamacpp import packages, trees
from ggufkit.llamacpp.pin import Pin
from ggufkit.progress import Progress, silent

_CHUNK = 1 << 20


def fetch(pin: Pin, folder: Path, *, given: Path | None = None, progress: Progress = silent) -> Path:
    """Return the path of the verified source distribution: the given file, the cached one, or a fresh download.

    Raises:
        UnsafeError: the file is not the pinned one.
        InputError: the given file cannot be read.
        MissingDependencyError: there is no pip.
        LlamaCppError: it cannot be downloaded.
    """
    if given:
        _verify(given, pin)
        return given
    cached = folder / f"{pin.package.replace('-', '_')}-{pin.version}.tar.gz"
    if cached.is_file():
        if _sha256(cached) == pin.sha256:
            return cached
        cached.unlink()  # a download that was cut off, or the file of another pin
    progress("Downloading llama.cpp", 0, 0)
    with trees.whole_folder(folder) as fresh:
        _download(pin, fresh)
        found = next(fresh.glob("*.tar.gz"), None)
        if found is None:
            raise InputError(f"pip found no source distribution of {pin.package} {pin.version}")
        _verify(found, pin)
        if found.name != cached.name:
            found.rename(fresh / cached.name)
    return cached


def unpack(sdist: Path, pin: Pin, target: Path, *, progress: Progress = silent) -> None:
    """Unpack the llama.cpp tree as `target`, which appears only when it is whole. Its files are read-only.

    Raises:
        UnsafeError: a member would leave the folder.
        InputError: the archive is broken or holds no such tree.
        OutputError: no space or no permission.
    """
    total = sdist.stat().st_size
    try:
        with trees.whole_folder(target) as folder:
            with sdist.open("rb") as file, tarfile.open(fileobj=file, mode="r:gz") as archive:
                for member in archive:
                    # pkg-1.0/vendor/llama.cpp/src/llama.cpp -> src/llama.cpp
                    inner = member.name.partition("/")[2]
                    if inner.startswith(f"{pin.folder}/"):
                        _extract(archive, member, folder, inner.removeprefix(f"{pin.folder}/"))
                    progress("Unpacking", file.tell(), total)
            if not (folder / "CMakeLists.txt").is_file():
                raise InputError(f"{sdist} holds no {pin.folder}/CMakeLists.txt")
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise InputError(f"{sdist} is not a whole tar.gz file: {error}") from error


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, name: str) -> None:
    """Write one member, read-only: it will be hard-linked to several places, and must not be edited in one.

    tarfile's own data filter would do, but Python 3.11 has it only from 3.11.4 on.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not (member.isreg() or member.isdir()):
        raise UnsafeError(f"refused: the archive holds a link, a device or a path that leaves its folder: {name}")
    target = folder / path
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    source = archive.extractfile(member)
    if source is None:
        raise InputError(f"the archive is broken at {name}")
    with source, target.open("xb") as out:
        shutil.copyfileobj(source, out, _CHUNK)
    target.chmod(0o555 if member.mode & 0o100 else 0o444)
    os.utime(target, (member.mtime, member.mtime))  # ninja compares times: a source must be older than its object


def _download(pin: Pin, folder: Path) -> None:
    # With the hash in a requirements file pip checks it before it runs anything from the archive.
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{pin.package}=={pin.version} --hash=sha256:{pin.sha256}\n")
    arguments: list[str | Path] = ["download", "--no-deps", "--no-binary", pin.package, "--require-hashes"]
    packages.pip(
        [*arguments, "--dest", folder, "--requirement", requirement],
        purpose=f"download {pin.package} {pin.version}",
        environment={"CMAKE_ARGS": "-DLLAMA_BUILD=OFF -DLLAVA_BUILD=OFF"},
    )
    requirement.unlink()


def _verify(file: Path, pin: Pin) -> None:
    found = _sha256(file)
    if found != pin.sha256:
        raise UnsafeError(
            f"{file} is not the pinned {pin.package} {pin.version}: its sha256 is {found}, expected {pin.sha256}",
            hint="download it again, or fix vendor/llama.cpp/pin.toml if the pin was raised",
        )


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error
