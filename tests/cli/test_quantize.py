"""`ggufkit quantize` as people use it: arguments in any order, clear refusals, and Ctrl-C that leaves nothing."""

import functools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import handmade_checkpoint
import numpy as np
import pytest
import tiny_gguf
from command_runs import Run

from ggufkit.cli._quantize_arguments import output_paths, sort_arguments
from ggufkit.errors import UsageError
from ggufkit.gguf_file.reader import read_header
from ggufkit.llamacpp.find import VARIABLE
from ggufkit.quantization.types import quantization_type

COMMAND = [sys.executable, "-c", "from ggufkit.cli import main; main()", "quantize"]


@pytest.fixture
def quantize(ggufkit: Run) -> Run:
    """Run `ggufkit quantize ...` in this process."""
    return functools.partial(ggufkit, "quantize")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of the test, with one F16 model in it."""
    tiny_gguf.write_model(tmp_path / "model-F16.gguf")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama as a checkpoint folder; tests must not change it."""
    folder = tmp_path_factory.mktemp("checkpoints") / "llama"
    folder.mkdir()
    handmade_checkpoint.write(folder)
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- arguments


@pytest.mark.parametrize(
    ("arguments", "kinds", "source"),
    [
        (["Q4_K_M", "a.gguf"], ["Q4_K_M"], "a.gguf"),
        (["a.gguf", "Q4_K_M"], ["Q4_K_M"], "a.gguf"),
        (["q4_k_m,Q8_0", "a.gguf"], ["Q4_K_M", "Q8_0"], "a.gguf"),
        (["a.gguf", "Q4_K_M", "q8_0"], ["Q4_K_M", "Q8_0"], "a.gguf"),
        (["Q4_K", "dir/with/model", "Q4_K_M"], ["Q4_K_M"], "dir/with/model"),
        (["Q4_K_M"], ["Q4_K_M"], None),
        (["Q4_K_M", "there"], ["Q4_K_M"], "there"),
        (["Q4_K_M", "F16"], ["Q4_K_M"], "F16"),
        (["F16", "there"], ["F16"], "there"),
    ],
)
def test_types_and_source_come_in_any_order(
    arguments: list[str], kinds: list[str], source: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "there").mkdir()
    (tmp_path / "F16").mkdir()
    monkeypatch.chdir(tmp_path)
    found, path = sort_arguments(arguments)
    assert [kind.name for kind in found] == kinds
    assert path == (Path(source) if source else None)


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ([], "no type and no source", "ggufkit quantize Q4_K_M model-F16.gguf"),
        (["a.gguf"], "no type is given for a.gguf", "--list"),
        (["Q4_KM", "a.gguf"], "unknown quantization type 'Q4_KM'", "Q4_K_M"),
        (["Q4_K_M,Q9_0", "a.gguf"], "unknown quantization type 'Q9_0'", "Q8_0"),
        (["a.gguf", "b.gguf", "Q4_K_M"], "one source at a time, not a.gguf and b.gguf", "-o"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: list[str], message: str, hint: str):
    with pytest.raises(UsageError, match=message) as caught:
        sort_arguments(arguments)
    assert hint in str(caught.value.hint)


def test_outputs_are_named_after_the_type(tmp_path: Path):
    kinds = [quantization_type("Q4_K_M"), quantization_type("Q8_0")]
    source = Path("models/m-F16.gguf")
    both = [Path("m-Q4_K_M.gguf"), Path("m-Q8_0.gguf")]
    assert [path for _, path in output_paths(source, kinds, None)] == [Path("models") / name for name in both]
    assert [path for _, path in output_paths(source, kinds, str(tmp_path))] == [tmp_path / name for name in both]
    assert [path for _, path in output_paths(source, kinds[:1], "x.gguf")] == [Path("x.gguf")]
    with pytest.raises(UsageError, match="2 types cannot go to one file"):
        output_paths(source, kinds, "x.gguf")


# --- what it does


@pytest.mark.engine
def test_it_says_what_it_made(quantize: Run, here: Path):
    ran = quantize("Q4_K_M", "model-F16.gguf")
    assert (ran.code, ran.err) == (0, "")
    first, second = ran.out.splitlines()
    assert first.startswith("model-Q4_K_M.gguf: 2.70 MB -> 829.73 kB, 16.02 -> 4.90 bits per weight, in ")
    assert second == "  tensors: 13 Q4_K, 5 F32, 3 Q6_K"
    assert names(here) == {"model-F16.gguf", "model-Q4_K_M.gguf"}


@pytest.mark.engine
def test_fallbacks_are_told_in_few_lines(quantize: Run, here: Path):
    tiny_gguf.write_model(here / "odd-F16.gguf", hidden=64, feed_forward=96)
    out = quantize("odd-F16.gguf", "q4_k_m").out
    assert "Q8_0 instead of Q6_K, whose blocks do not divide rows of 64: output.weight, blk.1.attn_v.weight" in out
    assert "rows of 64: token_embd.weight, " in out
    assert re.search(r" and \d+ more$", out, re.MULTILINE)


@pytest.mark.engine
def test_a_type_alone_takes_the_only_unquantized_model_here(quantize: Run, here: Path):
    (here / "notes.gguf").write_text("no model")
    ran = quantize("Q8_0")
    assert ran.code == 0
    assert "model-F16.gguf" in ran.err
    assert (here / "model-Q8_0.gguf").exists()
    assert quantize("Q4_0").code == 0  # the Q8_0 file beside it is no source
    tiny_gguf.write_model(here / "other.gguf", dtype=np.float32)
    ran = quantize("Q4_0")
    assert ran.code == 2
    assert "2 here are unquantized: model-F16.gguf, other.gguf" in ran.err
    assert "for example: ggufkit quantize" in ran.err


@pytest.mark.engine
def test_json_quiet_and_several_types(quantize: Run, here: Path):
    (here / "out").mkdir()
    ran = quantize("Q8_0,Q4_K_M", "model-F16.gguf", "-o", "out", "--json")
    document = json.loads(ran.out)
    assert (ran.err, document["schema_version"], document["dry_run"]) == ("", 1, False)
    assert [result["output"] for result in document["results"]] == ["out/model-Q8_0.gguf", "out/model-Q4_K_M.gguf"]
    for result in document["results"]:
        assert result["bytes_after"] == Path(result["output"]).stat().st_size < result["bytes_before"]
        assert result["tensors"] == len(read_header(Path(result["output"])).tensors)
        assert 4 < result["bits_per_weight_after"] < 9 < result["bits_per_weight_before"]
    ran = quantize("Q8_0", "Q4_0", "model-F16.gguf", "-q")
    assert (ran.out, ran.err) == ("model-Q8_0.gguf\nmodel-Q4_0.gguf\n", "")


@pytest.mark.engine
def test_a_dry_run_tells_the_size_and_writes_nothing(quantize: Run, here: Path):
    ran = quantize("Q4_K_M", "model-F16.gguf", "--dry-run", "--json")
    [planned] = json.loads(ran.out)["results"]
    assert names(here) == {"model-F16.gguf"}
    assert quantize("Q4_K_M", "model-F16.gguf", "--dry-run").out.endswith("nothing was written\n")
    [made] = json.loads(quantize("Q4_K_M", "model-F16.gguf", "--json").out)["results"]
    assert planned["bytes_after"] == made["bytes_after"]
    assert {tensor["name"] for tensor in planned["tensors"]} == set(tiny_gguf.weights())


@pytest.mark.engine
def test_options_reach_llama_quantize(quantize: Run, here: Path):
    matrix = tiny_gguf.write_imatrix(here / "imatrix.gguf")
    options = [
        "--imatrix",
        matrix,
        "--pure",
        "--tensor-type",
        "attn_k=q8_0",
        "--token-embedding-type",
        "q6_k",
        "-t",
        "1",
    ]
    ran = quantize("q4_k_m", "model-F16.gguf", "-o", "m.gguf", "--output-tensor-type", "bf16", *options)
    assert ran.code == 0, ran.err
    types = {tensor.name: tensor.type.name for tensor in read_header(here / "m.gguf").tensors}
    assert types["output.weight"] == "BF16"
    assert types["token_embd.weight"] == "Q6_K"
    assert types["blk.0.attn_k.weight"] == "Q8_0"
    assert types["blk.0.attn_v.weight"] == "Q4_K"
    assert "without importance data: " in ran.out


def test_the_list_of_types(quantize: Run):
    lines = quantize("--list").out.splitlines()
    assert next(line for line in lines if line.startswith("Q4_K_M")).split()[1] == "4.89"
    assert "needed" in next(line for line in lines if line.startswith("IQ1_S"))
    document = json.loads(quantize("--list", "--json").out)
    assert document["types"][0] == {
        "name": "F32",
        "number": 0,
        "base": "F32",
        "bits_per_weight": 32.0,
        "needs_imatrix": False,
        "good_for": "full precision, for tests",
        "block_size": 1,
        "alias_of": None,
        "gains_from_imatrix": False,
        "ollama": True,
        "in_this_build": True,
    }


def test_the_command_line_starts_without_heavy_packages():
    heavy = "{'numpy', 'gguf', 'rich.console', 'torch', 'transformers', 'llama_cpp'}"
    script = f"import sys, ggufkit.cli.quantize; sys.exit(str(sorted({heavy} & set(sys.modules))))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.stderr.strip() == "[]"


# --- refusals


@pytest.mark.engine
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["Q4_K_N", "model-F16.gguf"], 2, "unknown quantization type 'Q4_K_N'"),
        (["IQ1_S", "model-F16.gguf"], 2, "IQ1_S needs an importance matrix"),
        (["Q4_K_M", "model-F16.gguf", "-o", "model-F16.gguf"], 2, "same file"),
        (["Q4_K_M", "model-F16.gguf", "--tensor-type", "ffn_up"], 2, "not of the form REGEX=TYPE"),
        (["Q4_K_M", "model-F16.gguf", "--output-tensor-type", "Q4_K_M"], 2, "unknown tensor type 'Q4_K_M'"),
        (["Q4_K_M", "missing.gguf"], 3, "no such file or folder: missing.gguf"),
        (["Q4_K_M", "missing"], 3, "no such file or folder, and no type either: missing"),
        (["Q4_K_M", "model-F16.gguf", "--keep", "layers.99=f16"], 2, "this model has no block 99"),
        (["Q4_K_M", "notes.gguf"], 3, "notes.gguf is not a GGUF file"),
        (["Q4_K_M", "."], 3, "config.json"),
        (["Q4_K_M", "model-F16.gguf", "--imatrix", "notes.gguf"], 3, "notes.gguf is no importance matrix"),
        (["Q4_K_M", "model-F16.gguf", "-o", "nowhere/m.gguf"], 5, "output folder does not exist"),
        (["Q4_K_M", "model-F16.gguf", "-o", "/dev/null"], 5, "not a regular file"),
    ],
)
def test_refusals_are_one_line_and_a_hint(arguments: list[str], code: int, message: str, quantize: Run, here: Path):
    (here / "notes.gguf").write_text("no model")
    ran = quantize(*arguments)
    assert ran.code == code
    assert message in ran.err
    assert ran.err.startswith("error: ")
    assert "Traceback" not in ran.err
    assert ran.out == ""
    assert names(here) == {"model-F16.gguf", "notes.gguf"}


@pytest.mark.engine
def test_requantizing_must_be_meant(quantize: Run, here: Path):
    quantize("Q8_0", "model-F16.gguf")
    ran = quantize("Q4_0", "model-Q8_0.gguf")
    assert ran.code == 2
    assert "add --allow-requantize" in ran.err
    assert quantize("Q4_0", "model-Q8_0.gguf", "--allow-requantize").code == 0


# --- from a checkpoint


@pytest.mark.engine
def test_a_checkpoint_is_converted_on_the_way(quantize: Run, here: Path, checkpoint: Path):
    from ggufkit.conversion import convert

    [planned] = json.loads(quantize(checkpoint, "Q8_0", "-o", here, "--dry-run", "--json").out)["results"]
    ran = quantize("Q8_0", checkpoint, "-o", here)
    assert ran.code == 0, ran.err
    assert names(here) == {"model-F16.gguf", "llama-Q8_0.gguf"}
    convert(checkpoint, here / "two-F16.gguf")
    quantize("Q8_0", "two-F16.gguf")
    assert (here / "llama-Q8_0.gguf").read_bytes() == (here / "two-Q8_0.gguf").read_bytes()
    assert planned["bytes_after"] == (here / "llama-Q8_0.gguf").stat().st_size


@pytest.mark.engine
@pytest.mark.fault
def test_a_failure_behind_the_conversion_leaves_nothing(
    quantize: Run, tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"
    out.mkdir()
    ran = quantize("Q8_0", checkpoint, "-o", out, "--output-tensor-type", "Q6_K")
    assert ran.code == 2  # before a weight is converted
    assert "rows of 32 weights do not divide into blocks of 256" in ran.err
    monkeypatch.setenv(VARIABLE, str(tiny_gguf.fake_build(tmp_path / "build", tiny_gguf.HALF)))
    ran = quantize("Q8_0", checkpoint, "-o", out, "--engine", "binary")
    assert ran.code == 5
    assert "would not be whole" in ran.err
    assert names(out) == set()


@pytest.mark.engine
@pytest.mark.fault
def test_a_disk_too_small_for_both_files_is_found_before_the_conversion(
    quantize: Run, here: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
):
    [plan] = json.loads(quantize("Q8_0", checkpoint, "-o", here, "--dry-run", "--json").out)["results"]
    needed = plan["bytes_before"] + plan["bytes_after"]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": needed - 1}))
    ran = quantize("Q8_0", checkpoint, "-o", here, "--engine", "binary")
    assert ran.code == 5
    assert f"{needed:,} bytes needed" in ran.err
    assert names(here) == {"model-F16.gguf"}


# --- signals and full disks, in a process of its own


@pytest.mark.engine
@pytest.mark.fault
@pytest.mark.parametrize(
    ("source", "sent", "code"),
    [("model", signal.SIGINT, 130), ("checkpoint", signal.SIGINT, 130), ("model", signal.SIGTERM, 143)],
)
def test_signals_end_it_at_once_and_leave_nothing(
    source: str, sent: signal.Signals, code: int, here: Path, checkpoint: Path, tmp_path_factory
):
    build = tiny_gguf.fake_build(tmp_path_factory.mktemp("build") / "build", tiny_gguf.HANG)
    path = here / "model-F16.gguf" if source == "model" else checkpoint
    process = subprocess.Popen(
        [*COMMAND, "Q8_0", path, "-o", here / "out.gguf", "--engine", "binary"],
        env={**os.environ, VARIABLE: str(build)},
        stderr=subprocess.PIPE,
        text=True,
    )
    child = int(_wait_for(here / "hanging").read_text())
    process.send_signal(sent)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in err
    assert not Path(f"/proc/{child}").exists()
    assert names(here) == {"model-F16.gguf", "hanging"}


@pytest.mark.engine
@pytest.mark.fault
def test_a_file_that_may_not_grow_is_an_output_error(here: Path):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))

    ran = subprocess.run(
        [*COMMAND, "Q4_K_M", "model-F16.gguf"], preexec_fn=limit, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 5, ran.stderr
    assert "cannot write model-Q4_K_M.gguf" in ran.stderr
    assert names(here) == {"model-F16.gguf"}


def _wait_for(path: Path) -> Path:
    for _ in range(600):
        if path.exists() and path.read_text():
            return path
        time.sleep(0.05)
    raise AssertionError(f"{path} never came")


@pytest.mark.engine
@pytest.mark.parametrize("option", [["--keep-f16"], ["--outtype", "bf16"]])
def test_options_about_the_conversion_are_refused_where_nothing_is_converted(
    here: Path, quantize: Run, option: list[str]
) -> None:
    ran = quantize("Q8_0", "model-F16.gguf", *option)
    assert ran.code == 2
    assert option[0] in ran.err
    assert "checkpoint" in ran.err
    assert [path.name for path in here.iterdir()] == ["model-F16.gguf"]


@pytest.mark.engine
def test_a_slash_at_the_end_means_a_folder_which_is_made(here: Path, quantize: Run) -> None:
    assert quantize("Q8_0", "model-F16.gguf", "-o", "new/").code == 0
    assert names(here / "new") == {"model-Q8_0.gguf"}
    ran = quantize("Q8_0", "model-F16.gguf", "-o", "model-F16.gguf/")
    assert ran.code == 2
    assert "no folder" in ran.err
    assert quantize("IQ1_S", "model-F16.gguf", "-o", "other/").code == 2
    assert not (here / "other").exists()


@pytest.mark.engine
def test_a_dry_run_names_the_converted_file_that_would_be_kept(here: Path, quantize: Run, checkpoint: Path) -> None:
    dry = json.loads(quantize("Q8_0", checkpoint, "-o", here, "--keep-f16", "--dry-run", "--json").out)
    assert quantize("Q8_0", checkpoint, "-o", here, "--keep-f16").code == 0
    kept = Path(dry["converted"]["output"])
    assert kept.parent == here
    assert kept.stat().st_size == dry["converted"]["bytes"]


@pytest.mark.engine
def test_the_direct_engine_does_not_take_two_steps_in_silence(here: Path, quantize: Run) -> None:
    from ggufkit import demo_model

    folder = Path(next(iter(demo_model.__path__)))
    ran = quantize("Q8_0", folder, "--engine", "direct", "--keep-f16")
    assert ran.code == 2
    assert "--keep-f16" in ran.err
    assert [path.name for path in here.iterdir()] == ["model-F16.gguf"]


@pytest.mark.engine
def test_a_gguf_file_is_quantized_without_what_only_checkpoints_need(here: Path) -> None:
    imports = (
        "import sys; from ggufkit.cli import main\ntry: main()\nfinally: print(sorted(sys.modules), file=sys.stderr)"
    )
    command = [sys.executable, "-c", imports, "quantize", "Q8_0", "model-F16.gguf", "--dry-run"]
    loaded = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stderr
    assert "'ggufkit.quantization.plan'" in loaded
    assert "'ggufkit.conversion'" not in loaded
    assert "'ggufkit.architectures'" not in loaded
