"""`ggufkit export` as people type it."""

import json
import os
import pwd
import stat
import subprocess
import sys
from pathlib import Path

import ollama_by_hand
import pytest
import tiny_model

from ggufkit.cli import main

COMMAND = [sys.executable, "-c", "from ggufkit.cli import main; main()", "export"]


def run(*arguments: str | Path, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model.write(tmp_path / "model.gguf")


def test_from_export_to_removal(model: Path, tmp_path: Path):
    store = tmp_path / "store"
    environment = {"OLLAMA_MODELS": str(store)}
    license_file = tmp_path / "LICENSE"
    license_file.write_text("Do what you like.\n")
    done = run(
        "ollama", model, "me/tiny:q8", "--system", "Be kind.", "--parameter", "temperature", "0.7",
        "--parameter", "stop=a=b", "--parameter", "stop", "<end>", "--message", "user", "hi there",
        "--message", "assistant: ho", "--license", license_file, "--license", "MIT", "--json", **environment,
    )  # fmt: skip
    document = json.loads(done.stdout)
    assert document["name"] == "me/tiny:q8"
    assert document["parameters"] == {"stop": ["a=b", "<end>"], "num_ctx": 512, "temperature": 0.7}
    assert ollama_by_hand.files(store) == ollama_by_hand.store(
        "registry.ollama.ai/me/tiny/q8",
        ollama_by_hand.config(model),
        [
            ("model", model.read_bytes()),
            ("system", b"Be kind."),
            ("license", license_file.read_bytes()),
            ("license", b"MIT"),
            ("params", ollama_by_hand.go({"num_ctx": 512, "stop": ["a=b", "<end>"], "temperature": 0.7})),
            (
                "messages",
                ollama_by_hand.go([{"role": "user", "content": "hi there"}, {"role": "assistant", "content": "ho"}]),
            ),
        ],
    )
    manifest = Path(document["manifest"])
    assert document["manifest_digest"] == ollama_by_hand.digest(manifest.read_bytes())
    [listed] = json.loads(run("ollama", "--list", "--json", **environment).stdout)["models"]
    assert (listed["name"], listed["problem"]) == ("me/tiny:q8", None)
    assert run("ollama", "--list", **environment).stdout.split()[:2] == [
        "me/tiny:q8",
        document["manifest_digest"][7:19],
    ]
    assert run("ollama", "--list", "-q", "--store", store).stdout == "me/tiny:q8\n"
    assert "removed me/tiny:q8 and 7 blobs" in run("ollama", "--remove", "ME/tiny:q8", "--store", store).stdout
    assert ollama_by_hand.files(store) == {}
    run("ollama", "--remove", "me/tiny:q8", "--store", store, code=3)
    assert "no models" in run("ollama", "--list", "--store", store).stderr


def test_go_templates_and_modelfiles(model: Path, tmp_path: Path):
    store, output = tmp_path / "store", tmp_path / "Modelfile"
    run("ollama", model, "m", "--template", "go", "--store", store, "-q")
    manifest = json.loads((store / "manifests/registry.ollama.ai/library/m/latest").read_text())
    [layer] = [layer for layer in manifest["layers"] if layer["mediaType"].endswith("template")]
    template = (store / "blobs" / layer["digest"].replace(":", "-")).read_text()
    assert "<|im_start|>" in template
    assert run("ollama", model, "--modelfile", output, "--template", "go", "-q").stdout == f"{output}\n"
    assert f'TEMPLATE """{template}"""\n' in output.read_text()
    assert stat.S_IMODE(output.stat().st_mode) == 0o644
    own = tmp_path / "own.gotmpl"
    own.write_text("{{ .Prompt }}")
    assert (
        "TEMPLATE {{ .Prompt }}" in run("ollama", model, "--modelfile", output, "--template", own, "--dry-run").stdout
    )
    own.write_text('{{ define "x" }}{{ end }}{{ template "x" }}')
    assert "was not checked" in run("ollama", model, "--modelfile", output, "--template", own, "--dry-run").stderr
    own.write_text("{{ if }}")
    assert "no Go template" in run("ollama", model, "m", "--template", own, "--store", store, code=3).stderr
    strange = tiny_model.write(tmp_path / "strange.gguf", template="{{ messages | length }}")
    refused = run("ollama", strange, "m", "--template", "go", "--store", tmp_path / "none", code=3).stderr
    assert "has no Go template" in refused
    assert not (tmp_path / "none").exists()


def test_a_modelfile_can_be_printed(model: Path, tmp_path: Path):
    command = [*COMMAND, "ollama", model, "--modelfile", "-", "--system", "Be kind.", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    first, *others = done.stdout.splitlines()
    assert (first, others[-1]) == (f"FROM {model}", "SYSTEM Be kind.")
    assert list(tmp_path.iterdir()) == [model]


def test_licenses_and_templates_keep_their_line_ends(model: Path, tmp_path: Path):
    license_file, template, long = tmp_path / "LICENSE", tmp_path / "t.gotmpl", "You may. " * 60
    license_file.write_bytes(b"one\r\ntwo\r\n")
    template.write_bytes(b"{{ .Prompt }}\r\n")
    options = ["--license", license_file, "--license", long, "--template", template]
    run("ollama", model, "m", *options, "--store", tmp_path / "store", "-q")
    blobs = {path.read_bytes() for path in (tmp_path / "store/blobs").iterdir()}
    assert {b"one\r\ntwo\r\n", long.encode(), b"{{ .Prompt }}\r\n"} <= blobs


def test_values_may_begin_with_dashes(model: Path, tmp_path: Path):
    words = [
        "--parameter",
        "stop",
        "---",
        "--parameter",
        "seed",
        "-1",
        "--message",
        "user",
        "--why?",
        "--dry-run",
        "--json",
    ]
    told = json.loads(run("ollama", model, "m", "--store", tmp_path / "store", *words).stdout)
    assert (told["parameters"]["stop"], told["parameters"]["seed"]) == (["---"], -1)
    assert told["layers"][-1]["mediaType"].endswith("messages")


def test_a_license_that_looks_like_a_file_but_is_none(model: Path, tmp_path: Path):
    for text, warned in (
        ("LICENSE.txt", True),
        ("docs/LICENSE", True),
        ("MIT", False),
        ("https://x.org/LICENSE", False),
    ):
        done = run("ollama", model, "m", "--license", text, "--store", tmp_path / "store", "--dry-run")
        assert (f"there is no file {text}" in done.stderr) is warned


def test_a_link_that_a_service_cannot_read_is_told_of(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    service = pwd.struct_passwd(("ollama", "x", os.getuid() + 1, 0, "", "/", "/bin/false"))
    monkeypatch.setattr(pwd, "getpwall", lambda: [service])
    for mode, told in ((0o644, False), (0o600, True)):
        model.chmod(mode)
        store = tmp_path / f"{mode:o}"
        monkeypatch.setattr(sys, "argv", ["ggufkit", "export", "ollama", str(model), "m", "--store", str(store)])
        with pytest.raises(SystemExit, match="0"):
            main()
        shown = capsys.readouterr()
        assert ("user ollama may not read" in shown.err) is (told and "hard link" in shown.out)


def test_a_dry_run_writes_nothing(model: Path, tmp_path: Path):
    done = run("ollama", model, "m", "--store", tmp_path / "store", "--dry-run")
    assert "nothing was written" in done.stdout
    assert not (tmp_path / "store").exists()
    told = json.loads(run("ollama", model, "m", "--store", tmp_path / "store", "--dry-run", "--json").stdout)
    assert told["written"] is False
    run("ollama", model, "--modelfile", tmp_path / "Modelfile", "--dry-run")
    assert not (tmp_path / "Modelfile").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "name a model"),
        (["MODEL"], 2, "what shall Ollama call"),
        (["MODEL", "a b"], 2, "no name for a model"),
        (["MODEL", "m", "--parameter", "num_ctx"], 2, "has no value"),
        (["MODEL", "m", "--parameter", "num_ctx", "-q"], 2, "has no value"),
        (["MODEL", "m", "--parameter", "num_ctx", "big"], 2, "whole number"),
        (["MODEL", "m", "--parameter", "nonsense", "1"], 2, "no parameter 'nonsense'"),
        (["MODEL", "m", "--message", "robot", "hi"], 2, "robot"),
        (["MODEL", "m", "--system", "\udcff"], 2, "--system has bytes that are not UTF-8"),
        (["MODEL", "m", "--parameter", "stop", "\udcff"], 2, "--parameter has bytes that are not UTF-8"),
        (["MODEL", "m", "--template", "nothing.tmpl"], 3, "cannot read the template"),
        (["MODEL", "m", "--adapter", "MODEL"], 3, "is a model"),
        (["nothing.gguf", "m"], 3, "nothing.gguf"),
        (["FOLDER", "m"], 3, "folder"),
        (["MODEL", "m", "--license", "FOLDER"], 3, "cannot read the license"),
        (["MODEL", "m", "--list"], 2, "stand alone"),
        (["--list", "--remove", "m"], 2, "stand alone"),
        (["MODEL", "--modelfile", "MODEL"], 2, "same file"),
        (["MODEL", "m", "--store", "MODEL"], 2, "no folder"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
):
    places = {"MODEL": str(model), "FOLDER": str(tmp_path)}
    words = [places.get(word, word) for word in arguments]
    store = [] if "--store" in words else ["--store", str(tmp_path / "store")]
    monkeypatch.setattr(sys, "argv", ["ggufkit", "export", "ollama", *words, *store])
    with pytest.raises(SystemExit) as ended:  # in our own process: a new one for each would take its time
        main()
    assert ended.value.code == code
    [line, *_] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "store").exists()


def test_lm_studio(model: Path, tmp_path: Path):
    folder = tmp_path / "models"
    told = run("lmstudio", model, "me/mine", "--folder", folder, "--dry-run").stdout
    assert f"{folder}/me/mine/model.gguf" in told
    assert not folder.exists()
    [file] = json.loads(run("lmstudio", model, "me/mine", "--folder", folder, "--json").stdout)["files"]
    assert Path(file["path"]).read_bytes() == model.read_bytes()
    assert run("lmstudio", model, "me/mine", "--folder", folder, "-q").stdout == f"{folder}/me/mine/model.gguf\n"


def test_without_a_destination_all_are_shown():
    shown = run().stdout
    assert all(word in shown for word in ("ollama", "lmstudio", "hub"))
