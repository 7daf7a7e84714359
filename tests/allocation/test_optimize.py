"""Whole optimizations of small random models: sizes kept, presets never beaten, runs that go on, what is refused."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import random_models

from ggufkit.allocation import known_errors, targets, workplace
from ggufkit.allocation.candidates import candidates_for
from ggufkit.allocation.chunks import chunks_of, length_for
from ggufkit.allocation.document import document
from ggufkit.allocation.model import open_model
from ggufkit.allocation.optimize import Job, optimize
from ggufkit.allocation.options import Effort, OptimizeOptions
from ggufkit.allocation.prediction import Prediction
from ggufkit.allocation.results import FrontierPoint, Optimization
from ggufkit.allocation.texts import Dealt, Document, Use, deal
from ggufkit.allocation.weights import through
from ggufkit.cli import main
from ggufkit.errors import GgufkitError, InputError, LlamaCppError, UsageError
from ggufkit.evaluation.likelihood.logits_file import decode, open_logits_file
from ggufkit.files import locked
from ggufkit.gguf_file.reader import read_header
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp.find import find
from ggufkit.progress import silent
from ggufkit.quantization import recipe
from ggufkit.quantization.direct import library
from ggufkit.quantization.options import QuantizeOptions
from ggufkit.quantization.plan import plan
from ggufkit.quantization.quantize import quantize
from ggufkit.quantization.types import quantization_type
from ggufkit.reports.allocation.reading import read_allocation

pytestmark = pytest.mark.engine

LENGTH = 64


def dealt(characters: int = 6000) -> Dealt:
    passages = tuple(random_models.text(characters).split("\n\n"))
    return deal([Document("held out", passages)], [Use.PROBING, Use.CHOOSING])


def options(folder: Path, *, pool: str = "k-quants", effort: Effort = Effort.NORMAL) -> OptimizeOptions:
    return OptimizeOptions(
        effort=effort,
        pool=pool,
        chunk_tokens=LENGTH,
        quantize=QuantizeOptions(threads=1, search_scales=True),
        running=replace(OptimizeOptions().running, threads=1),
        folder=folder,
    )


def made(source: Path, folder: Path, *wanted: targets.Target, **more: object) -> Optimization:
    jobs = [Job(target, folder / f"{target.said}.gguf") for target in wanted]
    return optimize(source, jobs, dealt(), options(folder / "state", **more))  # type: ignore[arg-type]


def check(found: Optimization) -> None:
    """What must hold for every file that is made."""
    for each in found.files:
        header = read_header(each.output)
        assert header.file_size == each.bytes <= each.budget
        types = {tensor.name: tensor.type for tensor in header.tensors}
        assert all(types[name] is kind for name, kind in each.types.items())
        assert each.preset is not None
        assert each.chosen.measured.kld <= each.preset.measured.kld
        if each.chosen is not each.preset:
            assert each.bytes >= 0.995 * each.budget
        matrices = {tensor.name: tensor.type for tensor in header.tensors if len(tensor.shape) > 1}
        assert recipe.read(each.recipe).tensors == matrices  # those that cannot move, too


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_models.write(tmp_path_factory.mktemp("tied") / "tied-F16.gguf")


@pytest.fixture(scope="module")
def optimized(tied: Path) -> Optimization:
    return made(tied, tied.parent, targets.like("Q4_K_M"), targets.bits_per_weight(5.7))


def test_keeps_the_size_and_is_no_worse_than_the_preset(optimized: Optimization) -> None:
    check(optimized)
    names = {each.candidate.name for each in optimized.files[0].verified}
    assert "Q4_K_M" in names


@pytest.mark.oracle
def test_scales_are_searched_for_in_what_is_chosen_and_not_in_the_preset(
    optimized: Optimization, tied: Path, tmp_path: Path
) -> None:
    """The file is what `quantize --search-scales` makes with these types; the preset is llama-quantize's."""
    each = optimized.files[0]
    assert each.chosen.candidate.scales_searched
    assert recipe.read(each.recipe).scales_searched
    assert optimized.scales_searched
    applied = recipe.apply(recipe.read(each.recipe), [read_header(tied)], QuantizeOptions(search_scales=True))
    assert not any("--search-scales" in note for note in applied.notes)
    assert any("--search-scales" in note for note in unsearched_notes(each.recipe, tied))
    again, plain = tmp_path / "again.gguf", tmp_path / "plain.gguf"
    quantize(tied, applied.type, again, applied.options)
    quantize(tied, applied.type, plain, replace(applied.options, search_scales=False))
    found, theirs, ours = (tensor_bytes(path) for path in (each.output, plain, again))
    assert found == ours
    quantized = {name for name, kind in each.types.items() if kind.is_quantized}
    better = {name for name in found if found[name] != theirs[name]}
    assert better <= quantized
    assert len(better) > len(quantized) / 2
    # The same types as everybody makes them stand beside their like with better scales.
    presets = [one for one in each.verified if one.candidate.is_preset]
    alike = [one for one in each.verified if one.candidate.types == presets[0].candidate.types]
    assert [one.candidate.scales_searched for one in presets] == [False]
    assert sorted(one.candidate.scales_searched for one in alike) == [False, True]
    assert len({one.measured.kld for one in alike}) == 2


def unsearched_notes(path: Path, model: Path) -> tuple[str, ...]:
    return recipe.apply(recipe.read(path), [read_header(model)], QuantizeOptions()).notes


def tensor_bytes(path: Path) -> dict[str, bytes]:
    content = path.read_bytes()
    return {
        tensor.name: content[tensor.offset : tensor.offset + tensor.size]
        for tensor in read_header(path).tensors
        if len(tensor.shape) > 1
    }


def test_without_searching_files_are_those_of_llama_quantize(tied: Path, tmp_path: Path) -> None:
    plain = options(tmp_path / "state", effort=Effort.FAST)
    plain = replace(plain, quantize=replace(plain.quantize, search_scales=False))
    job = Job(targets.like("Q4_K_M"), tmp_path / "out.gguf")
    found = optimize(tied, [job], dealt(), plain)
    check(found)
    assert not found.scales_searched
    assert not any(one.candidate.scales_searched for one in found.files[0].verified)
    assert recipe.read(job.recipe).scales_searched is None


def test_the_curve_has_presets_as_everybody_makes_them_and_chosen_types_with_better_scales(
    tied: Path, tmp_path: Path
) -> None:
    asked = options(tmp_path / "state", effort=Effort.FAST)
    plain = replace(asked, quantize=replace(asked.quantize, search_scales=False))
    searched, without = (optimize(tied, [], dealt(), each).frontier for each in (asked, plain))

    def told(points: Sequence[FrontierPoint]) -> dict[str, float]:
        return {point.preset: point.predicted for point in points if point.preset}

    assert told(searched) == told(without)
    assert len(told(searched)) > 5
    # The cheapest of all sizes costs less with better scales; no type has worse ones.
    first, other = (min(point.bytes for point in points if not point.preset) for points in (searched, without))
    assert first == other
    costs = [next(p.predicted for p in points if p.bytes == first) for points in (searched, without)]
    assert costs[0] < costs[1]


@pytest.mark.oracle
def test_gains_are_what_the_search_leaves_of_errors(tied: Path, tmp_path: Path) -> None:
    asked = options(tmp_path)
    model = open_model(tied, asked.quantize, asked.pool, [targets.like("Q4_K_M")], ())
    gains = known_errors.gains_of(model, asked, 256, "a model", tmp_path, silent)
    choice = next(each for each in model.choices if "ffn_up" in each.name)
    tensor = choice.tensor
    content = np.fromfile(tied, np.uint8)[tensor.offset : tensor.offset + tensor.size].view(np.float16)
    rows = content.astype(np.float32).reshape(-1, tensor.shape[0])
    for kind in (TensorType.Q4_K, TensorType.Q6_K):
        plain, better = (
            np.square(through(library(), rows, kind, tensor.shape[0], None, search_scales=search) - rows.reshape(-1))
            for search in (False, True)
        )
        assert gains[choice.name][kind] == pytest.approx(better.sum() / plain.sum(), rel=0.02)
    assert gains[choice.name][choice.types[-1]] == 1.0
    read_again = known_errors.gains_of(model, asked, 256, "a model", tmp_path, silent)
    assert read_again == gains


def test_tied_embeddings_are_chosen_too(optimized: Optimization) -> None:
    assert "token_embd.weight" in optimized.files[0].types


def test_the_same_again_measures_nothing_and_gives_the_same(
    optimized: Optimization, tied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("something was measured again")

    monkeypatch.setattr("ggufkit.allocation.measuring.children_side_by_side", refused)
    monkeypatch.setattr("ggufkit.allocation.verification.children_side_by_side", refused)
    job = Job(targets.like("Q4_K_M"), tmp_path / "again.gguf")
    again = optimize(tied, [job], dealt(), options(tied.parent / "state"))
    assert again.files[0].types == optimized.files[0].types
    assert job.output.read_bytes() == optimized.files[0].output.read_bytes()


@pytest.mark.oracle
def test_a_probe_measures_what_llama_perplexity_measures(optimized: Optimization, tied: Path, tmp_path: Path) -> None:
    """A file in which one tensor is overwritten by hand, through llama-perplexity, gives the ledger's figure."""
    from ggufkit.allocation.weights import from_float32, through, to_float32
    from ggufkit.llamacpp import ggml

    library, name = ggml.load(), "blk.1.ffn_down.weight"
    assert library is not None
    header = read_header(tied)
    tensor = next(each for each in header.tensors if each.name == name)
    content = bytearray(tied.read_bytes())
    own = np.frombuffer(bytes(content[tensor.offset : tensor.offset + tensor.size]), np.uint8)
    changed = through(library, to_float32(library, own, tensor.type), TensorType.Q3_K, tensor.shape[0], None)
    content[tensor.offset : tensor.offset + tensor.size] = from_float32(library, changed, tensor.type).tobytes()
    patched, text = tmp_path / "patched.gguf", tmp_path / "text.txt"
    patched.write_bytes(content)
    text.write_text(dealt().probing, encoding="utf-8")
    probe = _probe(tied, name)
    said = []
    for number, model in enumerate((tied, patched)):  # the file is read, for what is printed gets lost at times
        kept = tmp_path / f"{number}.kld"
        chunks = ["-c", str(LENGTH), "--chunks", str(len(probe["chunks"])), "-t", "1"]  # type: ignore[arg-type]
        command = [find().tool("llama-perplexity"), "-m", model, "-f", text, *chunks, "--kl-divergence-base", kept]
        subprocess.run(command, check=True, capture_output=True)
        found = open_logits_file(kept)
        with kept.open("rb") as file:
            said += [np.stack([decode(found.rows(file, each), found.vocabulary_size) for each in range(found.chunks)])]
    base, other = (each.astype(np.float64) for each in said)
    mean = (np.exp(base) * (base - other)).sum(axis=-1).mean()
    assert probe["kld"] == pytest.approx(mean, rel=0.01, abs=2e-6)


def _probe(tied: Path, name: str) -> dict[str, object]:
    from ggufkit.allocation.ledger import key_of
    from ggufkit.allocation.model import open_model

    state = options(tied.parent / "state")
    model = open_model(tied, state.quantize, state.pool, [], ())
    texts = dealt()
    identity = workplace.identity_of(model, state)
    amounts = state.amounts(model.weights)
    setting = workplace.setting_of(model, state, identity, texts, Use.PROBING, amounts.probing)
    key = key_of(setting.identity, {name: TensorType.Q3_K})
    lines = (tied.parent / "state" / "measurements.jsonl").read_text().splitlines()
    return next(found for line in lines if (found := json.loads(line))["name"] == key)


@pytest.mark.fault
def test_a_killed_run_goes_on_with_the_same_result(optimized: Optimization, tied: Path, tmp_path: Path) -> None:
    """A run that dies in the middle of its probes leaves them in the ledger, and a torn line is not believed."""
    lines = (tied.parent / "state" / "measurements.jsonl").read_text().splitlines(keepends=True)
    state = tmp_path / "state"
    state.mkdir()
    kept = lines[: len(lines) // 2]
    (state / "measurements.jsonl").write_text("".join(kept) + lines[len(lines) // 2][:40])
    (state / "probing").mkdir()
    (state / "probing" / "base.logits").write_bytes(b"half of something")
    job = Job(targets.like("Q4_K_M"), tmp_path / "resumed.gguf")
    optimize(tied, [job], dealt(), options(state))
    assert job.output.read_bytes() == optimized.files[0].output.read_bytes()
    after = (state / "measurements.jsonl").read_text().splitlines()
    assert after[: len(kept)] == [line.rstrip("\n") for line in kept]
    names = [json.loads(line)["name"] for line in after]
    assert len(names) == len(set(names)), "something was measured twice"
    assert not list(state.glob("probing"))
    assert not list(state.glob("choosing"))


@pytest.mark.slow
def test_goes_without_what_inputs_lose_where_that_cannot_be_measured(
    tied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise LlamaCppError("llama.cpp cannot do that")

    monkeypatch.setattr("ggufkit.allocation.optimize.roundings_of", fails)
    said: list[str] = []
    job = Job(targets.like("Q4_K_M"), tmp_path / "out.gguf")
    found = optimize(tied, [job], dealt(), options(tmp_path / "state", effort=Effort.FAST), warn=said.append)
    check(found)
    assert "could not be measured: llama.cpp cannot do that" in said[-1]


def test_experts_and_rows_that_fit_no_large_blocks(tmp_path: Path) -> None:
    source = random_models.write(tmp_path / "experts-F16.gguf", seed=3, feed_forward=96, experts=4, tied=False)
    found = made(source, tmp_path, targets.like("Q4_K_M"), effort=Effort.FAST)
    check(found)
    down = found.files[0].types["blk.0.ffn_down_exps.weight"]
    assert 96 % down.block_size == 0


def test_says_the_smallest_and_the_largest_possible(tied: Path, tmp_path: Path) -> None:
    for target in (targets.size("10kB"), targets.bits_per_weight(30), targets.bits_per_weight(1.2)):
        with pytest.raises(UsageError, match=r"smallest file has [\d,]+ bytes .*, the largest [\d,]+"):
            made(tied, tmp_path, target)


def test_a_preset_beyond_the_pool_that_was_named_is_refused(tied: Path) -> None:
    """The usual pool, which nobody named, leaves such a preset as it is."""
    target = targets.like("Q3_K_M")
    with pytest.raises(UsageError, match=r"Q3_K_M \([\d,]+ bytes\) cannot be reached: with this pool"):
        open_model(tied, QuantizeOptions(threads=1), "q5_k,q8_0", [target], ()).budget(target)
    tiny = targets.like("TQ1_0")
    usual = open_model(tied, QuantizeOptions(threads=1), "usual", [tiny], ())
    assert usual.budget(tiny) == usual.presets["TQ1_0"].bytes_after


def test_chosen_types_leave_room_for_a_matrix_with_a_longer_name(tied: Path, tmp_path: Path) -> None:
    """A preset made without a matrix, or from a shorter path, has a smaller header: it must not be the smaller file."""
    matrix = random_models.write_imatrix(tmp_path / "matrix.gguf", tied)
    target = targets.like("Q4_K_M")
    model = open_model(tied, QuantizeOptions(imatrix=matrix, threads=1), "usual", [target], ())
    bare = plan(tied, quantization_type("Q4_K_M"), QuantizeOptions()).bytes_after
    assert model.budget(target) > bare
    assert model.room(model.budget(target), target) == bare
    assert model.room(10**6, targets.size("1MB")) == 10**6


def test_chosen_types_take_no_more_than_a_preset_that_has_other_types_without_a_matrix(tmp_path: Path) -> None:
    source = random_models.write(tmp_path / "m-F16.gguf", blocks=8)  # enough for llama-quantize to favour the first
    matrix = random_models.write_imatrix(tmp_path / "matrix.gguf", source)
    target = targets.like("Q4_0")
    model = open_model(source, QuantizeOptions(imatrix=matrix, threads=1), "Usual", [target], ())
    bare = plan(source, quantization_type("Q4_0"), QuantizeOptions()).bytes_after
    assert model.room(model.budget(target), target) == bare < model.presets["Q4_0"].bytes_unnamed


@pytest.mark.parametrize(
    ("tokens", "trained", "use", "length"),
    [
        (5000, 1024, Use.PROBING, 512),
        (5000, 128, Use.PROBING, 128),
        (494, 1024, Use.CALIBRATION, 128),
        (128, 1024, Use.CALIBRATION, 64),
        (100, 1024, Use.PROBING, 64),
        (100, 1024, Use.CALIBRATION, None),  # llama-imatrix reads two chunks at least
        (63, 1024, Use.PROBING, None),
    ],
)
def test_little_text_makes_shorter_chunks(
    tmp_path: Path, tokens: int, trained: int, use: Use, length: int | None
) -> None:
    header = read_header(random_models.write(tmp_path / "m.gguf", context=trained))
    if length is None:
        with pytest.raises(InputError, match=f"only {tokens} tokens are left for {use.value}"):
            length_for(tokens, use, header, 512)
    else:
        assert length_for(tokens, use, header, 512) == length


@pytest.mark.parametrize("name", ["Q4_0", "Q5_1", "IQ3_S"])
def test_the_preset_that_was_named_is_the_one_to_beat(name: str, tied: Path) -> None:
    target = targets.like(name)
    model = open_model(tied, QuantizeOptions(threads=1), "usual", [target], ())
    size = model.budget(target)
    assert size == plan(tied, quantization_type(name), QuantizeOptions()).bytes_after
    costs = {choice.name: dict.fromkeys(choice.types, 1.0) for choice in model.choices}
    first, *_ = candidates_for(model, size, {"any": costs}, Prediction(costs, ()), restricted=False, named=name)
    assert (first.name, first.is_preset, first.bytes) == (name, True, size)


def test_what_a_preset_leaves_is_spent_on_types_no_smaller_than_its_own(tied: Path) -> None:
    model = open_model(tied, QuantizeOptions(threads=1), "usual", [targets.like("Q5_K_M")], ())
    size = model.presets["Q5_K_M"].bytes_after - 3000
    weights = {choice.name: choice.weights for choice in model.choices}
    costs = {
        choice.name: {kind: weights[choice.name] * 4.0**-kind.bits_per_weight for kind in choice.types}
        for choice in model.choices
    }
    preset, *others = candidates_for(model, size, {"any": costs}, Prediction(costs, ()), restricted=False)
    (filled,) = (each for each in others if each.name.endswith("filled up"))
    assert 0.995 * size <= filled.bytes <= size
    for choice in model.choices:
        own, was = filled.types[choice.name], preset.types[choice.name]
        assert choice.bytes_as(own) >= choice.bytes_as(was), choice.name


def test_refuses_a_source_that_is_quantized(optimized: Optimization, tmp_path: Path) -> None:
    with pytest.raises(GgufkitError, match="quantized already"):
        made(optimized.files[0].output, tmp_path, targets.like("Q4_K_M"))


def test_refuses_a_preset_as_a_source_of_itself(tied: Path, tmp_path: Path) -> None:
    preset = tmp_path / "preset.gguf"
    quantize(tied, quantization_type("Q4_K_M"), preset, QuantizeOptions(threads=1))
    with pytest.raises(UsageError, match=r"is quantized already \(\d+ Q4_K") as caught:
        made(preset, tmp_path, targets.like("Q4_K_M"))
    assert "F32" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["optimize", "MODEL"],
        ["optimize", "MODEL", "--like", "F16"],
        ["optimize", "MODEL", "--target-size", "many"],
        ["optimize", "MODEL", "--target-bpw", "0"],
        ["optimize", "MODEL", "--like", "Q4_K_M", "--effort", "heroic"],
        ["optimize", "MODEL", "--like", "Q4_K_M", "--outtype", "q8_0"],
        ["optimize", "MODEL", "--like", "Q4_K_M", "--sensitivity", "magic"],
        ["optimize", "MODEL", "--like", "Q4_K_M", "--sensitivity", "fisher"],
        ["quantize", "--like", "Q4_K_M", "MODEL", "--pure"],
        ["quantize", "--like", "Q4_K_M", "Q5_K_M", "MODEL"],
        ["quantize", "Q4_K_M", "MODEL", "--effort", "fast"],
        ["quantize", "--like", "Q4_K_M", "MODEL", "--refine"],
        ["optimize", "MODEL", "--target-bpw", "4.6", "--target-bpw", "4.6000001"],
    ],
)
def test_refuses_nonsense_with_a_hint(
    arguments: list[str], tied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(tied) if word == "MODEL" else word for word in arguments]
    monkeypatch.setattr(sys, "argv", ["ggufkit", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "hint: " in capsys.readouterr().err


def test_a_dry_run_says_what_it_will_take_and_writes_nothing(
    tied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All stages are in it: text of its own, the matrix, refining; and the estimate comes before any of them."""
    source = tmp_path / "models" / "m-F16.gguf"
    source.parent.mkdir()
    source.write_bytes(tied.read_bytes())
    state = tmp_path / "state"
    words = ["optimize", str(source), "--like", "Q4_K_M", "--dry-run", "--json", "-c", "64", "--refine"]
    monkeypatch.setattr(sys, "argv", ["ggufkit", *words, "--threads", "1", "--state", str(state)])
    with pytest.raises(SystemExit, match=r"^0$"):
        main()
    told = json.loads(capsys.readouterr().out)
    assert told["dry_run"] is True
    stages = told["estimate"]["stages"]
    assert {"text of its own", "importance matrix", "probes", "candidates", "refining", "result"} <= stages.keys()
    assert all(seconds > 0 for seconds in stages.values())
    assert sum(stages.values()) == pytest.approx(told["estimate"]["seconds"])
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["m-F16.gguf"]


def commanded(
    source: Path, *arguments: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Run the command without any effort; return its exit code and what it said on stderr."""
    words = ["optimize", str(source), "--like", "Q4_K_M", "-c", "64", "--threads", "1", "--effort", "fast"]
    monkeypatch.setattr(sys, "argv", ["ggufkit", *words, *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), capsys.readouterr().err


def test_a_cluster_is_missed_before_any_work(
    tied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    text = tmp_path / "text.txt"
    text.write_text(random_models.text(6000))
    arguments = ["-f", text, "--workers", "ray://127.0.0.1:1", "-o", tmp_path / "out.gguf"]
    code, told = commanded(tied, *arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 3
    assert "Ray is not installed" in told
    assert list(tmp_path.iterdir()) == [text]


def test_a_checkpoint_stands_beside_a_file(
    tied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{}")
    for source, checkpoint in ((tied, tmp_path / "config.json"), (tmp_path, tmp_path)):
        arguments = ["--refine", "--checkpoint", checkpoint]
        code, said = commanded(source, *arguments, monkeypatch=monkeypatch, capsys=capsys)
        assert code == 2
        assert "--checkpoint is the folder that SRC, a file, was converted from" in said


def test_the_checkpoint_that_is_named_is_read(
    tied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "text.txt").write_text(random_models.text(6000))
    asked: list[OptimizeOptions] = []

    def stopped(_source: Path, _jobs: object, _texts: object, options: OptimizeOptions, **_: object) -> None:
        asked.append(options)
        raise InputError("stopped")

    monkeypatch.setattr("ggufkit.allocation.optimize.optimize", stopped)
    arguments = ["-f", tmp_path / "text.txt", "--state", tmp_path / "state", "-o", tmp_path / "out.gguf"]
    for more, original in (([], None), (["--checkpoint", tmp_path], tmp_path)):
        code, _ = commanded(tied, *arguments, *more, monkeypatch=monkeypatch, capsys=capsys)
        assert code == 3
        assert asked.pop().original == original


def test_a_state_that_can_be_none_is_refused_before_any_work(
    tied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for state in (tmp_path / "file", tmp_path / "file" / "state"):
        code, said = commanded(tied, "--state", state, monkeypatch=monkeypatch, capsys=capsys)
        assert (code, said.count("error: "), "about" in said) == (5, 1, False)


def test_what_has_the_matrix_s_name_and_is_none_of_ours_stays(
    tied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(random_models.text(60_000))
    source = tmp_path / "m-F16.gguf"
    source.symlink_to(tied)
    theirs = tmp_path / "m-optimized-imatrix.gguf"
    theirs.write_text("mine")
    words = ["-f", text, "--state", tmp_path / "state", "-o", tmp_path / "out.gguf"]
    code, said = commanded(source, *words, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2
    assert "was not made by this command" in said
    assert theirs.read_text() == "mine"


def test_two_runs_do_not_share_a_matrix(
    tied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that makes its matrix of another text would change what the other one measures by."""
    text = tmp_path / "text.txt"
    text.write_text(random_models.text(60_000))
    source = tmp_path / "m-F16.gguf"
    source.symlink_to(tied)
    matrix = tmp_path / "m-optimized-imatrix.gguf"
    words = ["-f", text, "--state", tmp_path / "state", "-o", tmp_path / "out.gguf"]
    code, said = commanded(source, *words, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0, said
    made_first = matrix.read_bytes()
    text.write_text(random_models.text(61_000))
    words[3] = tmp_path / "another state"
    with locked(matrix.with_name(f"{matrix.name}-used")):
        code, said = commanded(source, *words, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 5
    assert f"{matrix} is in use by process" in said
    assert matrix.read_bytes() == made_first
    assert commanded(source, *words, monkeypatch=monkeypatch, capsys=capsys)[0] == 0
    assert matrix.read_bytes() != made_first


def test_text_that_a_matrix_was_made_of_is_compared_with_the_text_for_development(
    tied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(random_models.text(60_000))
    source = tmp_path / "m-F16.gguf"
    source.symlink_to(tied)
    words: list[object] = ["-f", text, "--state", tmp_path / "state", "-o", tmp_path / "out.gguf"]
    code, said = commanded(source, *words, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0, said
    words += ["--development", text, "--imatrix", tmp_path / "m-optimized-imatrix.gguf"]
    code, said = commanded(source, *words, monkeypatch=monkeypatch, capsys=capsys)
    assert "warning" in said
    assert "%" in said


def test_a_checkpoint_is_estimated_before_it_is_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    demo = Path(__file__).parents[2] / "ggufkit" / "demo_model"
    text = tmp_path / "text.txt"
    text.write_text(random_models.text(30_000))
    words = ["optimize", str(demo), "--like", "Q4_K_M", "--dry-run", "--json", "-f", str(text), "--state"]
    monkeypatch.setattr(sys, "argv", ["ggufkit", *words, str(tmp_path / "state"), "--sensitivity", "fisher"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"^0$"):
        main()
    stages = json.loads(capsys.readouterr().out)["estimate"]["stages"]
    assert {"conversion", "importance matrix", "backward pass", "candidates"} <= stages.keys()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["text.txt"]


def test_special_tokens_of_chats_are_tokens_when_tensors_are_probed(tied: Path) -> None:
    header = read_header(tied)
    tokens = list(header.metadata["tokenizer.ggml.tokens"])  # type: ignore[arg-type] # a list of words
    start = tokens.index("<|im_start|>")
    text = 200 * "<|im_start|>user\nWhat is it?<|im_end|>\n"
    running = options(tied.parent).running
    cut = {
        special: chunks_of(Dealt("", text, "", special), Use.PROBING, header, running, length=64, most=2)
        for special in (True, False)
    }
    assert any(start in chunk for chunk in cut[True].tokens)
    assert not any(start in chunk for chunk in cut[False].tokens)


def test_what_probes_foretold_is_kept_beside_what_was_scaled(optimized: Optimization, tied: Path) -> None:
    """No file's own measurement is in what is foretold of it, and what the probes said before is kept."""
    for file in optimized.files:
        for each in file.verified:
            assert each.candidate.predicted != pytest.approx(each.measured.kld, rel=1e-6)
            assert each.candidate.predicted_by_probes != pytest.approx(each.candidate.predicted, rel=1e-6)
    told = document(str(tied), optimized, options(tied.parent), version="1", build={}, command="")
    read = read_allocation(json.dumps(told), Path("run.json"))
    assert read is not None
    assert [file.chosen.measured for file in read.files] == [file.chosen.measured.kld for file in optimized.files]
    assert {text.use for text in read.texts} == {"probing", "choosing"}


def test_large_files_go_when_a_run_fails(tied: Path, tmp_path: Path) -> None:
    wanted = options(tmp_path / "state")
    model = open_model(tied, wanted.quantize, wanted.pool, [], ())

    def interrupted() -> None:
        with workplace.workplace(model, wanted) as folder:
            (folder / "probing").mkdir()
            (folder / "probing" / "half-a-copy.gguf").write_bytes(b"GGUF")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "state").is_dir()
    assert not (tmp_path / "state" / "probing").exists()


def test_no_copy_of_a_text_stays(optimized: Optimization, tied: Path) -> None:
    kept = b"".join(path.read_bytes() for path in (tied.parent / "state").rglob("*") if path.is_file())
    assert random_models.text(6000).split("\n\n")[3][:40].encode() not in kept
