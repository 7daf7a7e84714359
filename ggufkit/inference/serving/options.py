"""What a server is asked to be."""

import ipaddress
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from ggufkit.errors import InputError, UsageError
from ggufkit.inference.options import EngineOptions

VARIABLE = "GGUFKIT_API_KEY"
_LONGEST_FILE = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """How a model is served.

    Attributes:
        host: name or address of the interface to listen on.
        port: 0 for any that is free.
        slots: requests that are answered at the same time; None: 4, or fewer where memory is short.
        alias: the model's name for clients; None: the file's.
        keys: any of them opens the server; none: it is open.
        origins: web sites whose pages may use the server, as `https://example.org`.
        hosts: further names under which clients know this machine.
        engine: how the model runs; its context size is that of each slot.
        embeddings: answer requests for embeddings too, by a second program that is started by the first of them.
        chat_template: Jinja file to use in place of the model's own.
        template_arguments: JSON object of variables for the template.
        reasoning: whether the model thinks before it answers: on, off or auto.
        drain_seconds: how long running requests may go on after the server was asked to end.
        page: serve a page to chat with.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    slots: int | None = None
    alias: str | None = None
    keys: tuple[str, ...] = field(default=(), repr=False)
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    engine: EngineOptions = field(default_factory=EngineOptions)
    embeddings: bool = True
    chat_template: Path | None = None
    template_arguments: str | None = None
    reasoning: str = "auto"
    drain_seconds: float = 30.0
    page: bool = True

    def __post_init__(self) -> None:
        """Refuse what makes no sense, and what would be open to the world. Raises UsageError."""
        if self.slots is not None and self.slots < 1:
            raise UsageError("the number of requests at the same time must be positive")
        if not self.is_local and not self.keys:
            raise UsageError(
                f"--host {self.host} lets other machines in, and anyone there could use the model: a key is needed",
                hint="openssl rand -hex 32 > key.txt, then --api-key-file key.txt; or stay with --host 127.0.0.1",
            )

    @property
    def is_local(self) -> bool:
        """Tell whether only programs of this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False


def read_keys(path: Path | None) -> tuple[str, ...]:
    """Read API keys, one a line; empty lines and those that begin with # are passed over.

    Without a file: the one in the variable GGUFKIT_API_KEY, if there is one.

    Raises:
        InputError: the file cannot be read, holds no key, or one that no HTTP header can carry.
    """
    if path is None:
        text, place = os.environ.get(VARIABLE, ""), f"${VARIABLE}"
        if not text.strip():
            return ()
    else:
        text, place = _read(path, "keys"), str(path)
    lines = [line.strip() for line in text.splitlines()]
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise InputError(f"{place} holds no key", hint=f"openssl rand -hex 32 > {place}")
    for number, key in enumerate(keys, 1):
        if not all(33 <= ord(character) <= 126 for character in key):  # what a header can carry
            raise InputError(f"key {number} in {place} holds a space or a character that is not ASCII")
    return keys


def check_template(template: Path | None, arguments: str | None) -> None:
    """Look at a template file and its variables before a model is loaded.

    Raises:
        InputError: the file cannot be read.
        UsageError: the variables are no JSON object.
    """
    if template is not None:
        read_template(template)
    if arguments is not None:
        try:
            sound = isinstance(json.loads(arguments), dict)
        except (ValueError, RecursionError):
            sound = False
        if not sound:
            raise UsageError(
                "the template's variables must be a JSON object", hint="as in '{\"enable_thinking\": false}'"
            )


def read_template(template: Path) -> str:
    """Read a template file. Raises InputError when that is not possible."""
    return _read(template, "chat template")


def _read(path: Path, what: str) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_LONGEST_FILE).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"cannot read the {what} in {path}: {reason}") from None
