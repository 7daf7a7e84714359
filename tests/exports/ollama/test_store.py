"""Other models are never touched; a run that dies at any step leaves whole models; runs at once do not mix."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ollama_by_hand
import pytest
import tiny_model

from ggufkit.errors import InputError, OutputError
from ggufkit.exports.ollama import (
    ExportOptions,
    Store,
    check_writable,
    default_store,
    export,
    parse_name,
    plan_export,
    remove,
    store_files,
)
from ggufkit.exports.ollama.manifests import CONFIG_TYPE
from ggufkit.exports.ollama.store import may_be_folder
from ggufkit.exports.ollama.writing import writing

MODEL = "application/vnd.ollama.image.model"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model.write(tmp_path / "model.gguf")


def put(model: Path, store: Path, name: str, system: str = "", **how: Any) -> Any:
    return export(plan_export(model, ExportOptions(system=system)), parse_name(name), Store(store), **how)


def without_leftovers(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if "ggufkit-part" not in name}


# ---- listing and removing


def test_models_are_listed_and_broken_ones_say_why(model: Path, tmp_path: Path):
    folder = tmp_path / "store"
    assert Store(folder).models() == []
    put(model, folder, "whole")
    done = put(model, folder, "me/broken:v2", system="will be lost")
    Store(folder).blob(done.layers[1].digest).unlink()
    for name, content in (("bad", b"{"), ("list", b"[]"), ("odd", b'{"config":{"digest":"sha256:../../x"}}')):
        path = folder / "manifests/registry.ollama.ai/library" / name / "latest"
        path.parent.mkdir()
        path.write_bytes(content)
    (folder / "manifests/registry.ollama.ai/.DS_Store").write_text("no manifest")
    listed = {found.name.short: found for found in Store(folder).models()}
    assert [name for name, found in listed.items() if not found.problem] == ["whole:latest"]
    assert set(listed) == {"whole:latest", "me/broken:v2", "bad:latest", "list:latest", "odd:latest"}
    assert "missing" in listed["me/broken:v2"].problem
    whole = listed["whole:latest"]
    assert (whole.family, whole.parameters, whole.quantization) == ("llama", "110K", "unknown")
    manifest = folder / "manifests" / whole.name.path
    assert f"sha256:{whole.digest}" == ollama_by_hand.digest(manifest.read_bytes())
    assert whole.model is not None
    assert whole.model.read_bytes() == model.read_bytes()


def test_removing_takes_away_what_no_other_model_needs(model: Path, tmp_path: Path):
    folder = tmp_path / "store"
    put(model, folder, "one", system="only one's")
    alone = ollama_by_hand.files(folder)
    put(model, folder, "ns/two", system="only two's")
    removed = remove(Store(folder), parse_name("ns/two"))
    assert ollama_by_hand.files(folder) == alone
    assert len(removed.blobs) == 1
    assert removed.freed == len("only two's")
    assert not (folder / "manifests/registry.ollama.ai/ns").exists()
    remove(Store(folder), parse_name("one"))
    assert ollama_by_hand.files(folder) == {}
    with pytest.raises(InputError, match="no model one:latest"):
        remove(Store(folder), parse_name("one"))


def test_nothing_is_removed_while_a_manifest_cannot_be_read(model: Path, tmp_path: Path):
    folder = tmp_path / "store"
    put(model, folder, "one")
    blobs = {path.name for path in (folder / "blobs").iterdir()}
    bad = folder / "manifests/h/n/m/t"
    bad.parent.mkdir(parents=True)
    bad.write_text("{")
    remove(Store(folder), parse_name("one"))
    assert {path.name for path in (folder / "blobs").iterdir()} == blobs


def test_a_name_is_spelled_as_the_store_does(model: Path, tmp_path: Path):
    folder = tmp_path / "store"
    put(model, folder, "Me/Model:Q4")
    done = put(model, folder, "me/model:q4", system="new")
    assert done.name.short == "Me/Model:Q4"
    assert put(model, folder, "ME/other").name.short == "Me/other:latest"
    assert len(Store(folder).models()) == 2


def test_a_replaced_model_leaves_nothing_of_its_own(model: Path, tmp_path: Path):
    put(model, tmp_path / "store", "m", system="old")
    put(model, tmp_path / "store", "m", system="new")
    put(model, tmp_path / "fresh", "m", system="new")
    assert ollama_by_hand.files(tmp_path / "store") == ollama_by_hand.files(tmp_path / "fresh")
    put(model, tmp_path / "store", "m", system="newer", keep_old=True)
    assert ollama_by_hand.files(tmp_path / "fresh").items() - ollama_by_hand.files(tmp_path / "store").items() == {
        item for item in ollama_by_hand.files(tmp_path / "fresh").items() if item[0].startswith("manifests")
    }


def test_what_a_failing_disk_leaves_of_a_replaced_model_goes_with_the_next_export(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The new manifest has its name, and then the disk fails: nothing may forget the blobs of the old one."""
    folder = tmp_path / "store"
    put(model, folder, "m", system="old")

    def fails_behind_the_manifest(path: Path) -> None:
        if "manifests" in path.parts:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(store_files, "flush", fails_behind_the_manifest)
        with pytest.raises(OutputError):
            put(model, folder, "m", system="new")
    put(model, folder, "m", system="new")
    put(model, tmp_path / "fresh", "m", system="new")
    assert ollama_by_hand.files(folder) == ollama_by_hand.files(tmp_path / "fresh")


def test_where_the_store_is():
    assert default_store({"OLLAMA_MODELS": ' "/data/models" '}) == Path("/data/models")
    assert default_store({}) == Path.home() / ".ollama/models"


# ---- permission


@pytest.mark.fault
def test_a_store_of_another_user_gets_the_command_to_use(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "store"
    put(model, folder, "m")
    before = ollama_by_hand.files(folder)
    monkeypatch.setattr(os, "access", lambda *_, **__: False)  # root may write anywhere
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    monkeypatch.setattr(store_files, "_user_name", lambda _: "ollama")
    with pytest.raises(OutputError, match="belongs to user ollama") as caught:
        check_writable(Store(folder), "export ollama /a/m.gguf m --store /s")
    assert caught.value.hint == "sudo -u ollama ggufkit export ollama /a/m.gguf m --store /s"
    assert caught.value.exit_code == 5
    assert ollama_by_hand.files(folder) == before


def test_the_command_minds_a_model_that_the_owner_of_the_store_may_not_read(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    monkeypatch.setattr(store_files, "_user_name", lambda _: "ollama")
    model.chmod(0o600)
    with pytest.raises(OutputError) as caught:
        check_writable(Store(tmp_path / "store"), "export ollama /a/m.gguf m", model)
    hint = "sudo -u ollama ggufkit export ollama /a/m.gguf m (without -u ollama, if that user may not read the model)"
    assert caught.value.hint == hint


@pytest.mark.fault
def test_a_store_in_a_home_that_is_closed(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    home = tmp_path / "ollama"
    home.mkdir()
    really = Path.stat

    def closed(path: Path, **how: Any) -> os.stat_result:  # root may look anywhere
        if path.is_relative_to(home) and path != home:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return really(path, **how)

    monkeypatch.setattr(Path, "stat", closed)
    monkeypatch.setattr(os, "access", lambda path, *_, **__: Path(path) != home)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert may_be_folder(home / ".ollama/models")
    with pytest.raises(OutputError, match=f"no permission to write in {home}: the model store belongs") as caught:
        check_writable(Store(home / ".ollama/models"), "export ollama m.gguf m")
    assert "sudo -u" in (caught.value.hint or "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_writes_belongs_to_the_owner_of_the_store(model: Path, tmp_path: Path):
    folder = tmp_path / "store"
    folder.mkdir()
    os.chown(folder, 12345, 12346)
    done = put(model, folder, "m")
    assert done.how[done.layers[0].digest] in {"copy", "reflink"}  # a hard link would stay root's
    assert {(path.stat().st_uid, path.stat().st_gid) for path in folder.rglob("*")} == {(12345, 12346)}
    assert model.stat().st_uid == 0


# ---- deaths

DRIVER = """
import json, os, shutil, signal, sys
from pathlib import Path
from ggufkit.exports.ollama import ExportOptions, Store, export, parse_name, plan_export, remove

model, folder, action = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
COUNTED = {"open", "fcntl.ioctl", "fcntl.flock"}
start = folder.with_name("start")
shutil.copytree(folder, start)

def is_step(event, args):
    if event == "open":
        return bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return event in COUNTED or event.startswith("os.") and event not in {"os.scandir", "os.listdir"}

def work():
    store = Store(folder)
    if action == "remove":
        remove(store, parse_name("m"))
    else:
        plan = plan_export(model, ExportOptions(system=action))
        export(plan, parse_name("m"), store, copy=action == "copied")

step = 0
while True:
    step += 1
    shutil.rmtree(folder)
    shutil.copytree(start, folder)
    process = os.fork()
    if process == 0:
        seen = 0
        def count(event, args):
            global seen
            if is_step(event, args):
                seen += 1
                if seen == step:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(count)
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    print(json.dumps([step, status]), flush=True)
    if sys.stdin.readline() != "again\\n" or status != -signal.SIGKILL:
        sys.exit(status)
"""


def die_at_every_step(model: Path, folder: Path, action: str, look: Callable[[int], None]) -> int:
    """Do something in a process that is killed before its first change to the disk, its second, …, each time anew."""
    command = [sys.executable, "-c", DRIVER, str(model), str(folder), action]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdin
        assert driver.stdout
        for line in driver.stdout:
            step, status = json.loads(line)
            assert status in {0, -signal.SIGKILL}, step
            look(step)
            driver.stdin.write("again\n")
            driver.stdin.flush()
            if status == 0:
                return int(step)
    raise AssertionError("the driver died")


@pytest.mark.fault
@pytest.mark.parametrize("action", ["linked", "copied"])
def test_killed_before_every_step_all_models_are_whole(
    action: str, model: Path, tmp_path: Path, figure: Callable[[str, str], None]
):
    folder = tmp_path / "store"
    other = tiny_model.write(tmp_path / "other.gguf", seed=2)
    put(other, folder, "other", system="be old", copy=True)
    put(other, folder, "m", system="be old", copy=True)  # this name is what the killed runs write to
    before = ollama_by_hand.files(folder)
    old = (folder / "manifests/registry.ollama.ai/library/m/latest").read_bytes()
    new = put(model, folder, "m", system=action, copy=True, dry_run=True).manifest

    def look(_: int) -> None:
        files = ollama_by_hand.files(folder)
        assert ollama_by_hand.problems(folder) == []
        others = {name: content for name, content in before.items() if not name.endswith("library/m/latest")}
        assert others.items() <= files.items()
        assert files["manifests/registry.ollama.ai/library/m/latest"] in {old, new}
        assert {name for name in files if name.startswith("manifests")} == {
            name for name in before if name.startswith("manifests")
        }
        put(model, folder, "m", system=action)  # the next run completes, and clears away what the killed one left
        files = ollama_by_hand.files(folder)
        assert finished.items() <= files.items()
        assert without_leftovers(files) == files
        assert ollama_by_hand.problems(folder) == []

    put(model, tmp_path / "fresh", "m", system=action)
    finished = ollama_by_hand.files(tmp_path / "fresh")
    steps = die_at_every_step(model, folder, action, look)
    assert steps > 20
    figure(f"export killed before every step ({action})", f"{steps - 1} steps, all models whole")


@pytest.mark.fault
def test_a_removal_killed_before_every_step_leaves_other_models_whole(model: Path, tmp_path: Path):
    folder = tmp_path / "store"
    put(model, folder, "other", system="stays")
    before = ollama_by_hand.files(folder)

    def look(_: int) -> None:
        files = ollama_by_hand.files(folder)
        assert before.items() <= files.items()
        assert ollama_by_hand.problems(folder) == []

    put(model, folder, "m", system="goes")
    assert die_at_every_step(model, folder, "remove", look) > 3


# ---- at once

RACER = """
import sys
from pathlib import Path
from ggufkit.exports.ollama import ExportOptions, Store, export, parse_name, plan_export
plan = plan_export(Path(sys.argv[1]), ExportOptions(system=sys.argv[3]))
print("ready", flush=True)
sys.stdin.readline()
export(plan, parse_name("m"), Store(Path(sys.argv[2])))
"""


@pytest.mark.fault
@pytest.mark.parametrize("same", [True, False], ids=["one model", "two models"])
def test_of_exports_at_once_to_one_name_one_wins(same: bool, model: Path, tmp_path: Path):
    folder = tmp_path / "store"
    other = model if same else tiny_model.write(tmp_path / "other.gguf", seed=2)
    put(model, folder, "bystander", system="be still")
    before = ollama_by_hand.files(folder)
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(path), str(folder), system],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for path, system in ((model, "a"), (other, "b"), (model, "c"))
    ]  # fmt: skip
    for racer in racers:
        assert racer.stdout
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        _, errors = racer.communicate(timeout=120)
        assert racer.returncode == 0, errors
    assert ollama_by_hand.problems(folder) == []
    files = ollama_by_hand.files(folder)
    assert before.items() <= files.items()
    assert files == without_leftovers(files)
    wins = [
        put(path, folder, "m", system, dry_run=True).manifest
        for path, system in ((model, "a"), (other, "b"), (model, "c"))
    ]
    assert files["manifests/registry.ollama.ai/library/m/latest"] in wins


def test_a_removal_waits_for_no_export(model: Path, tmp_path: Path):
    store = Store(tmp_path / "store")
    put(model, store.path, "m")
    with writing(store), pytest.raises(OutputError, match="being written by another ggufkit"):
        remove(Store(store.path), parse_name("m"))
    remove(store, parse_name("m"))


def test_a_server_that_starts_meanwhile_finds_nothing_to_tidy_up(model: Path, tmp_path: Path):
    store = Store(tmp_path / "store")
    seen: set[str] = set()

    def look(*_: object) -> None:
        seen.update(path.name for folder in (store.blobs, store.manifests) for path in folder.rglob("*"))

    export(plan_export(model, ExportOptions()), parse_name("m"), store, copy=True, progress=look)
    assert seen == set()
    assert [path.name for path in store.path.glob(".*")] == []


def test_what_is_in_the_way_is_named(model: Path, tmp_path: Path):
    folder = tmp_path / "store/manifests/registry.ollama.ai/library/m/latest"
    folder.mkdir(parents=True)
    with pytest.raises(OutputError, match=f"cannot write {folder}"):
        put(model, tmp_path / "store", "m")


def test_a_file_system_without_locks_will_do(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_locks(*_: object) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")  # of a folder on NFS

    monkeypatch.setattr(store_files.fcntl, "flock", no_locks)
    store = Store(tmp_path / "store")
    put(model, store.path, "m", system="old")
    put(model, store.path, "m", system="new")
    assert ollama_by_hand.problems(store.path) == []
    remove(store, parse_name("m"))
    assert store.models() == []


def test_a_blob_that_a_server_removes_meanwhile_stops_the_export(model: Path, tmp_path: Path):
    store = Store(tmp_path / "store")
    with writing(store) as writer:
        layer, _ = writer.put_file(MODEL, model)
        config = writer.put(CONFIG_TYPE, b"{}\n")
        store.blob(layer.digest).unlink()
        with pytest.raises(OutputError, match="vanished") as caught:
            writer.write_manifest(parse_name("m"), config, [layer])
    assert "again" in (caught.value.hint or "")
    assert store.models() == []
