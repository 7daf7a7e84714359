"""Ollama's model store and Modelfiles, written without Ollama.

What is written follows the source of Ollama (github.com/ollama/ollama) as it was in August 2026, when the model's
config still ended in `architecture` and `os`, and had lost its `rootfs` (pull request 17619). Each module names the
files that it was read from. Newer servers read what is written here; they ignore the two keys.
"""

from ggufkit.exports.ollama.export import Exported, ExportOptions, Plan, export, export_ollama, plan_export
from ggufkit.exports.ollama.names import ModelName, parse_name
from ggufkit.exports.ollama.store import Store, StoredModel, default_store
from ggufkit.exports.ollama.store_files import check_writable
from ggufkit.exports.ollama.writing import Removed, remove

__all__ = [
    "ExportOptions",
    "Exported",
    "ModelName",
    "Plan",
    "Removed",
    "Store",
    "StoredModel",
    "check_writable",
    "default_store",
    "export",
    "export_ollama",
    "parse_name",
    "plan_export",
    "remove",
]
