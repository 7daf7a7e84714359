"""Every error that ggufkit raises on purpose; the command line prints them as one line and a hint.

The tree, with the exit code of each class:

    GgufkitError                      1  an internal failure that we can at least name
    ├── UsageError                    2  what was asked for makes no sense (output equals input, unknown type)
    ├── InputError                    3  what was given cannot be used
    │   ├── CheckpointError           3  the checkpoint is missing, incomplete or malformed
    │   │   ├── UnmappedTensorError   3  the checkpoint holds a tensor that the architecture neither maps nor drops
    │   │   └── UnsupportedArchitectureError  3  nothing here knows this `architectures[0]`
    │   ├── GgufFileError             3  a GGUF file is malformed or not what it should be
    │   ├── HubError                  3  a repository on the hub is missing, closed to us, or out of reach
    │   └── MissingDependencyError    3  an optional package or the llama.cpp build is not installed
    ├── UnsafeError                   4  refused: it would run code or leave the folder it belongs to
    ├── OutputError                   5  disk full, no permission, name taken
    ├── LlamaCppError                 6  a llama.cpp program or library failed
    └── VerificationError             7  the result is not what it must be
"""


class GgufkitError(Exception):
    """Base of all expected failures: what went wrong, and `hint`, the next thing to try (or None)."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(GgufkitError):
    """What was asked for makes no sense."""

    exit_code = 2


class InputError(GgufkitError):
    """What was given cannot be used."""

    exit_code = 3


class CheckpointError(InputError):
    """The source checkpoint is missing, incomplete or malformed."""


class UnmappedTensorError(CheckpointError):
    """The checkpoint holds a tensor that the architecture neither maps nor drops."""


class UnsupportedArchitectureError(CheckpointError):
    """Nothing here knows this `architectures[0]`."""


class GgufFileError(InputError):
    """A GGUF file is malformed, or not what it should be."""


class HubError(InputError):
    """A repository on the hub is missing, closed to us, or out of reach."""


class MissingDependencyError(InputError):
    """An optional package, or the llama.cpp build, is not installed."""


class UnsafeError(GgufkitError):
    """Refused: it would run foreign code, or leave the folder that it belongs to."""

    exit_code = 4


class OutputError(GgufkitError):
    """Disk full, no permission, or the name is taken."""

    exit_code = 5


class LlamaCppError(GgufkitError):
    """A llama.cpp program or library failed; the message quotes its command, status and last lines."""

    exit_code = 6


class VerificationError(GgufkitError):
    """The result is not what it must be."""

    exit_code = 7
