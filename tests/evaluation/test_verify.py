"""What `verify` says of sound files: of every type, quantized, split, without torch, with little memory."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import handmade_checkpoint
import numpy as np
import pytest
from damaged_gguf import with_metadata, with_tensor

from ggufkit.conversion import OutputType, convert
from ggufkit.errors import CheckpointError, GgufFileError, UsageError
from ggufkit.evaluation import reference
from ggufkit.evaluation.results import Grade, Verdict, Verification
from ggufkit.evaluation.verify import CHECKS, verify
from ggufkit.llamacpp.find import find

Converted = Callable[..., tuple[Path, Path]]
SLOW = ("logits", "tokens", "chat-template")


def only(*names: str) -> tuple[str, ...]:
    return tuple(set(CHECKS) - set(names))


def grades(result: Verification) -> dict[str, str]:
    return {check.name: check.grade.value for check in result.checks}


@pytest.mark.oracle
@pytest.mark.engine
@pytest.mark.parametrize("outtype", ["f32", "bf16", "q8_0"])
def test_a_sound_file_is_proven(outtype: str, converted: Converted, figure: Callable[[str, str], None]) -> None:
    model, checkpoint = converted("llama", outtype)
    result = verify(model, checkpoint, prompt_tokens=40)
    assert result.verdict is Verdict.PROVEN
    assert grades(result) == {
        "metadata": "exact",
        "tokens": "exact",
        "chat template": "exact",
        "tensors": "exact",
        "logits": "close",
    }
    result.raise_for_failure()
    figure(f"verify llama {outtype}", next(check.summary for check in result.checks if check.name == "logits"))


@pytest.mark.oracle
@pytest.mark.engine
def test_a_quantized_file_tells_its_distance(converted: Converted) -> None:
    model, checkpoint = converted("demo", "Q4_K_M")
    result = verify(model, checkpoint, skip=("tokens", "chat-template"), prompt_tokens=40)
    by_name = {check.name: check for check in result.checks}
    assert by_name["tensors"].grade is Grade.EXACT
    assert by_name["logits"].figures["coarsest_type"] == "Q4_K"
    assert 1e-4 < by_name["logits"].figures["against_float32"]["mean_kl"] < 0.2
    errors = {tensor["type"]: tensor["relative_error"] for tensor in by_name["tensors"].figures["tensors"]}
    assert 0.04 < errors["Q4_K"] < 0.12


@pytest.mark.engine
@pytest.mark.parametrize("kind", ["Q4_K_M", "IQ2_S"])
def test_an_importance_matrix_makes_it_close_and_not_damaged(kind: str, converted: Converted, tmp_path: Path) -> None:
    model, checkpoint = converted("demo")
    (tmp_path / "text.txt").write_text("What is 38 + 47? The answer is a number. " * 300)
    for command in (
        [
            find().tool("llama-imatrix"),
            "-m",
            model,
            "-f",
            "text.txt",
            "-o",
            "imatrix.gguf",
            "-c",
            "64",
            "--chunks",
            "4",
        ],
        [find().tool("llama-quantize"), "--imatrix", "imatrix.gguf", model, "quantized.gguf", kind],
    ):
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr[-2000:]
    result = verify(tmp_path / "quantized.gguf", checkpoint, skip=only("tensors", "metadata"))
    assert grades(result)["tensors"] == "close"
    assert result.verdict is Verdict.PARTLY_PROVEN


@pytest.mark.engine
def test_split_files(converted: Converted, tmp_path: Path) -> None:
    model, checkpoint = converted("demo")
    command = [find().tool("llama-gguf-split"), "--split-max-tensors", "15", model, tmp_path / "split"]
    assert subprocess.run(command, capture_output=True).returncode == 0
    first = tmp_path / "split-00001-of-00003.gguf"
    assert grades(verify(first, checkpoint, skip=SLOW))["tensors"] == "exact"
    with pytest.raises(GgufFileError, match="not its first"):
        verify(tmp_path / "split-00002-of-00003.gguf", checkpoint)
    (tmp_path / "split-00003-of-00003.gguf").unlink()
    with pytest.raises(GgufFileError, match="no such file"):
        verify(first, checkpoint)


def test_every_source_tensor_is_accounted_for(tmp_path: Path) -> None:
    """A tied Gemma's saved lm_head is dropped on purpose, and named."""
    weights = handmade_checkpoint.tensors()
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    checkpoint = handmade_checkpoint.write(tmp_path / "model", weights)
    convert(checkpoint, tmp_path / "model.gguf", outtype=OutputType.F32)
    [check] = [
        check for check in verify(tmp_path / "model.gguf", checkpoint, skip=SLOW).checks if check.name == "tensors"
    ]
    assert check.figures["dropped_sources"] == ["model.layers.0.self_attn.rotary_emb.inv_freq"]
    assert "dropped on purpose" in "\n".join(check.details)


def test_without_torch_or_llama_cpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = handmade_checkpoint.write(tmp_path / "model")
    convert(checkpoint, tmp_path / "model.gguf", outtype=OutputType.F16)
    for name in ("torch", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    result = verify(tmp_path / "model.gguf", checkpoint, skip=("logits",))
    assert result.verdict is Verdict.PARTLY_PROVEN
    summaries = {check.name: check.summary for check in result.checks}
    assert "transformers is not installed" in summaries["chat template"]
    monkeypatch.setattr("ggufkit.evaluation.logits.engine_child.logits", lambda *_, **__: [])
    [check] = [
        check
        for check in verify(tmp_path / "model.gguf", checkpoint, skip=only("logits")).checks
        if check.summary != "as asked"
    ]
    assert (check.grade, "not installed" in check.summary) == (Grade.SKIPPED, True)


def test_too_little_memory_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ggufkit.checkpoints import open_checkpoint

    folder = handmade_checkpoint.write(tmp_path / "model")
    monkeypatch.setattr(reference, "available_memory", lambda: 1000)
    with open_checkpoint(folder) as checkpoint, pytest.raises(CheckpointError, match="GB of memory"):
        reference.reference_logits(checkpoint, [[1, 2]])


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["llama-tied", "mixtral", "gemma2"])
def test_layer_by_layer_gives_the_same_logits(name: str, converted: Converted, monkeypatch: pytest.MonkeyPatch) -> None:
    from ggufkit.checkpoints import open_checkpoint

    _, folder = converted(name)
    with open_checkpoint(folder) as checkpoint:
        whole = reference.reference_logits(checkpoint, [[5, 6, 7, 8]])
        monkeypatch.setattr(reference, "_all_cast", reference._cast_layer_by_layer)
        apart = reference.reference_logits(checkpoint, [[5, 6, 7, 8]])
    for precision in reference.PRECISIONS:
        np.testing.assert_array_equal(whole[precision][0], apart[precision][0])


def test_a_model_that_would_kill_llama_cpp_is_refused_before_it_runs(converted: Converted, tmp_path: Path) -> None:
    model, checkpoint = converted("demo")
    damaged = with_metadata(model, tmp_path / "damaged.gguf", llama__attention__head_count_kv=3)
    with pytest.raises(GgufFileError, match="head_count_kv is 3, but must be a divisor of the 4 heads"):
        verify(damaged, checkpoint, skip=only("logits", "metadata"))


def test_nonsense_is_refused(converted: Converted, tmp_path: Path) -> None:
    model, checkpoint = converted("demo")
    with pytest.raises(UsageError, match="no check is called nothing"):
        verify(model, checkpoint, skip=["nothing"])
    with pytest.raises(CheckpointError, match="no such folder"):
        verify(model, tmp_path / "nowhere")
    with pytest.raises(GgufFileError, match="no such file"):
        verify(tmp_path / "nothing.gguf", checkpoint)


def test_an_architecture_without_a_spec_is_still_verified_in_part(converted: Converted, tmp_path: Path) -> None:
    model, checkpoint = converted("demo")
    copy = shutil.copytree(checkpoint, tmp_path / "model")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(
        json.dumps({**config, "architectures": ["UnheardOfForCausalLM"], "model_type": "x"})
    )
    result = verify(model, copy, skip=("logits", "tokens"))
    assert grades(result)["tensors"] == grades(result)["metadata"] == "skipped"
    assert result.verdict is Verdict.PARTLY_PROVEN


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ggufkit", *arguments], capture_output=True, text=True)


def test_the_command(converted: Converted, tmp_path: Path) -> None:
    model, checkpoint = converted("demo")
    done = run("verify", model, checkpoint, "--skip", "logits,tokens", "--skip", "chat-template")
    assert done.returncode == 0, done.stderr
    assert "38 of 38 bit-exact" in done.stdout
    assert done.stdout.splitlines()[-1].startswith(f"{model}: partly proven (llama, ")
    damaged = with_tensor(model, tmp_path / "damaged.gguf", "output_norm.weight", lambda data: data * 2)
    done = run("verify", damaged, checkpoint, "--skip", "logits,tokens,chat-template", "--json")
    assert done.returncode == 7
    document = json.loads(done.stdout)
    assert (document["schema_version"], document["verdict"]) == (1, "failed")
    assert [check["grade"] for check in document["checks"]] == ["exact", "skipped", "skipped", "failed", "skipped"]
    assert done.stderr.startswith("error: ")
    done = run("verify", damaged, checkpoint, "--skip", "logits,tokens,chat-template", "-q")
    assert (done.returncode, done.stdout) == (7, "failed\n")
    assert run("verify", model, checkpoint, "--skip", "all").returncode == 2


@pytest.mark.oracle
@pytest.mark.engine
def test_convert_and_verify_at_once(tmp_path: Path) -> None:
    checkpoint = handmade_checkpoint.write(tmp_path / "model")
    done = run(
        "convert", checkpoint, "-o", tmp_path / "model.gguf", "--verify", "--json", "--set", "general.author=Ada"
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["verification"]["verdict"] == "proven"
    assert document["output"] == str(tmp_path / "model.gguf")
