"""What `ggufkit export ollama` prints, of an export, a list, and a removal."""

import shlex
import time
from typing import TYPE_CHECKING, Any

from ggufkit.cli import _output
from ggufkit.counting import counted

if TYPE_CHECKING:
    from ggufkit.exports.ollama import Exported, ModelName, Plan, Store, StoredModel


def run_export(
    plan: "Plan", name: "ModelName", store: "Store", *, copy: bool, dry_run: bool, as_json: bool, quiet: bool
) -> None:
    """Export, and say what was written."""
    import os

    from ggufkit.exports.ollama import export

    keep_old = bool(os.environ.get("OLLAMA_NOPRUNE", "").strip("\"' "))
    with _output.progress_bar(quiet=quiet or as_json) as progress:
        done = export(plan, name, store, copy=copy, keep_old=keep_old, dry_run=dry_run, progress=progress)
    if as_json:
        _output.print_json(_document(done, plan, dry_run=dry_run))
    elif quiet:
        print(done.name.short)
    else:
        for layer in done.layers:
            way = done.how.get(layer.digest, "")
            kind = layer.media_type.rpartition(".")[2]
            print(f"{kind:<10} {layer.digest[:19]}  {_output.size(layer.size)}{f'  {way}' if way else ''}")
        what = "would be in" if dry_run else "is in"
        then = "nothing was written" if dry_run else f"ollama run {done.name.short}"
        print(f"{done.name.short} {what} {done.store}: {then}")
        if not dry_run:
            _mention_service(store)
            _mention_mode(done, store)


def _mention_service(store: "Store") -> None:
    """Say so when another store is the one that a service on this machine uses."""
    from ggufkit.exports.ollama.store import SERVICE_STORE, may_be_folder

    if may_be_folder(SERVICE_STORE) and store.path.resolve() != SERVICE_STORE.resolve():
        _output.note(f"an Ollama that runs as a service keeps its models in {SERVICE_STORE}: --store {SERVICE_STORE}")


def _mention_mode(done: "Exported", store: "Store") -> None:
    """Say so when a blob is closed to the user of a service: a hard link has the mode of the user's own file."""
    import pwd

    closed = [
        path
        for digest, way in done.how.items()
        if way in {"hard link", "already there"} and not (path := store.blob(digest)).stat().st_mode & 0o004
    ]
    services = [user for user in pwd.getpwall() if user.pw_name == "ollama"]
    if closed and services and closed[0].stat().st_uid != services[0].pw_uid:
        _output.note(f"user ollama may not read {closed[0]}, a link to a file of yours: chmod o+r, or --copy")


def _document(done: "Exported", plan: "Plan", *, dry_run: bool) -> dict[str, Any]:
    import hashlib

    from ggufkit.exports.ollama.go_json import Float32, shortest_float32

    values = {
        key: float(shortest_float32(value.value)) if isinstance(value, Float32) else value
        for key, value in plan.parameters.items()
    }
    return {
        "name": done.name.short,
        "store": str(done.store),
        "manifest": str(done.store / "manifests" / done.name.path),
        "manifest_digest": f"sha256:{hashlib.sha256(done.manifest).hexdigest()}",
        "config": done.config.json(),
        "layers": [
            {**layer.json(), **({"how": done.how[layer.digest]} if layer.digest in done.how else {})}
            for layer in done.layers
        ],
        "parameters": values,
        "written": not dry_run,
        "warnings": list(plan.warnings),
    }


def run_list(store: "Store", *, as_json: bool, quiet: bool) -> None:
    """List the models of a store."""
    models = store.models()
    if as_json:
        _output.print_json({"store": str(store.path), "models": [_listed(model) for model in models]})
        return
    width = max((len(model.name.short) for model in models), default=0)
    for model in models:
        if quiet:
            print(model.name.short)
            continue
        date = time.strftime("%Y-%m-%d %H:%M", time.localtime(model.modified))
        kind = f"{model.family} {model.parameters} {model.quantization}"
        print(f"{model.name.short:<{width}}  {model.digest[:12]:<12}  {_output.size(model.size):>10}  {date}  {kind}")
        if model.problem:
            _output.warn(f"{model.name.short}: {model.problem}")
    if not models and not quiet:
        _output.note(f"there are no models in {store.path}")


def _listed(model: "StoredModel") -> dict[str, Any]:
    return {
        "name": model.name.short,
        "digest": model.digest,
        "bytes": model.size,
        "modified": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(model.modified)),
        "family": model.family,
        "parameters": model.parameters,
        "quantization": model.quantization,
        "model": str(model.model) if model.model else None,
        "problem": model.problem or None,
    }


def run_removal(store: "Store", name: "ModelName", *, dry_run: bool, as_json: bool, quiet: bool) -> None:
    """Remove a model, and say what that freed."""
    from ggufkit.errors import UsageError
    from ggufkit.exports.ollama import check_writable, remove

    if dry_run:
        raise UsageError("--remove has no --dry-run", hint="ggufkit export ollama --list shows what is there")
    command = ["export", "ollama", "--remove", name.short, "--store", str(store.path)]
    check_writable(store, shlex.join(command))
    removed = remove(store, name)
    if as_json:
        _output.print_json(
            {
                "name": removed.name.short,
                "store": str(store.path),
                "removed_blobs": list(removed.blobs),
                "freed_bytes": removed.freed,
            }
        )
    elif not quiet:
        count = counted(len(removed.blobs), "blob")
        print(f"removed {removed.name.short} and {count}, {_output.size(removed.freed)} freed")
