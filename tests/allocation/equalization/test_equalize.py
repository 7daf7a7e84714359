"""Whole optimizations of a model with outliers, of which the equalized one loses far less; and what keeps it away."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import random_models

from ggufkit.allocation import targets
from ggufkit.allocation.equalization import equalize
from ggufkit.allocation.equalization.channels import Channels, channels_of
from ggufkit.allocation.equalization.copies import write_equalized, write_equalized_matrix
from ggufkit.allocation.equalization.factors import Equalization
from ggufkit.allocation.optimize import Job, optimize
from ggufkit.allocation.options import Effort, OptimizeOptions
from ggufkit.allocation.results import Optimization
from ggufkit.allocation.texts import Dealt, Document, Use, deal
from ggufkit.gguf_file.reader import read_header
from ggufkit.quantization import recipe
from ggufkit.quantization.direct import library
from ggufkit.quantization.options import QuantizeOptions
from ggufkit.quantization.plan import plan
from ggufkit.quantization.quantize import quantize
from ggufkit.quantization.types import quantization_type

pytestmark = pytest.mark.engine


def dealt() -> Dealt:
    passages = tuple(random_models.text(6000).split("\n\n"))
    return deal([Document("held out", passages)], [Use.PROBING, Use.CHOOSING])


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model with outliers before its norms' readers, and its importance matrix."""
    folder = tmp_path_factory.mktemp("twin")
    model = random_models.write(folder / "plain-F16.gguf")
    matrix = random_models.write_imatrix(folder / "plain.gguf", model)
    chance, header = np.random.default_rng(3), read_header(model)
    factors = {}
    for each in channels_of([header]):
        factors[each] = np.ones((1, each.count), np.float32)
        factors[each][0, chance.permutation(each.count)[:6]] = 1 / 32
    twin, its = folder / "twin-F16.gguf", folder / "twin.gguf"
    write_equalized([header], [twin], Equalization(factors), library())
    write_equalized_matrix(matrix, its, Equalization(factors), library())
    return twin, its


def made(twin: tuple[Path, Path], folder: Path, told: list[str] | None = None, **more: object) -> Optimization:
    options = OptimizeOptions(
        pool="k-quants",
        chunk_tokens=64,
        quantize=QuantizeOptions(threads=1, imatrix=twin[1]),
        running=replace(OptimizeOptions().running, threads=1),
        folder=folder / "state",
        **more,  # type: ignore[arg-type]
    )
    tell = (told if told is not None else []).append
    return optimize(twin[0], [Job(targets.like("Q4_K_M"), folder / "made.gguf")], dealt(), options, warn=tell)


def uneven(channels: Channels) -> np.ndarray:
    factors = np.ones((channels.experts, channels.count), np.float32)
    factors[:, :8] = 1 / 16
    return factors


@pytest.fixture(scope="module")
def equal(twin: tuple[Path, Path]) -> Optimization:
    return made(twin, twin[0].parent)


def test_an_equalized_file_loses_far_less_and_says_what_it_is(equal: Optimization, twin: tuple[Path, Path]) -> None:
    found, (file,) = equal, equal.files
    assert found.equalized >= 2 * 4 * 6  # two norms, values, and what gates multiply, of two blocks
    assert file.preset is not None
    assert file.chosen.candidate.equalized
    assert not file.preset.candidate.equalized
    assert file.chosen.measured.kld < 0.5 * file.preset.measured.kld
    header = read_header(file.output)
    assert header.metadata["ggufkit.recipe.equalized"] is True
    assert header.file_size <= file.budget
    assert file.budget == plan(twin[0], quantization_type("Q4_K_M"), QuantizeOptions(imatrix=twin[1])).bytes_after
    assert recipe.read(file.recipe).equalized is True
    assert recipe.read(file.recipe).model_sha256 == recipe.hash_file([twin[0]])  # the model's, not the copy's
    assert not (twin[0].parent / "state" / "equalized").exists()


def test_its_figure_is_that_of_the_file_against_the_untouched_model(
    equal: Optimization, twin: tuple[Path, Path], tmp_path: Path
) -> None:
    """The file that is shipped is compared here with the model that was given, by llama.cpp, not with the copy."""
    from ggufkit.allocation.chunks import chunks_of
    from ggufkit.evaluation.likelihood import passes
    from ggufkit.evaluation.likelihood.statistics import divergence
    from ggufkit.progress import silent

    (file,) = equal.files
    running = replace(OptimizeOptions().running, threads=1)
    chunks = chunks_of(dealt(), Use.CHOOSING, read_header(twin[0]), running, length=64, most=64)
    work = tmp_path / "work"
    work.mkdir()
    passes.read_base(twin[0], chunks, work, running, silent)
    scores = passes.read_against(file.output, "file", chunks, work, running, silent).scores
    assert divergence(scores).mean_kld.value == pytest.approx(file.chosen.measured.kld, rel=1e-3)


def test_is_left_out_where_it_is_not_wanted(twin: tuple[Path, Path], tmp_path: Path) -> None:
    found = made(twin, tmp_path, equalize=False)
    assert found.equalized == 0
    assert not any(each.candidate.equalized for each in found.files[0].verified)
    assert "ggufkit.recipe.equalized" not in read_header(found.files[0].output).metadata


def test_goes_on_where_a_run_has_ended(
    equal: Optimization, twin: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = equal.files[0].output.read_bytes()

    def refused(*_: object) -> None:
        raise AssertionError("something was measured again")

    for module in ("measuring", "verification"):
        monkeypatch.setattr(f"ggufkit.allocation.{module}.children_side_by_side", refused)
    monkeypatch.setattr(equalize.passes, "read_base", refused)
    again = made(twin, twin[0].parent)
    assert again.files[0].output.read_bytes() == content


def test_a_model_that_does_more_with_its_channels_stays_as_it_is(
    twin: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one whose norm is read by a matrix that nobody knows of: here, one reader is left out."""

    def careless(headers: object, *_: object, **__: object) -> Equalization:
        channels = channels_of(headers)[0]  # type: ignore[arg-type]
        return Equalization({replace(channels, readers=channels.readers[1:]): uneven(channels)})

    monkeypatch.setattr(equalize, "factors_of", careless)
    told: list[str] = []
    found = made(twin, tmp_path, told)
    assert found.equalized == 0
    assert any("does more with its channels" in each for each in told)
    assert not found.files[0].chosen.candidate.equalized
    assert not list(tmp_path.rglob("*equalized*"))
    monkeypatch.setattr(equalize, "write_equalized", None)  # the next run knows
    assert made(twin, tmp_path, told).equalized == 0
    assert sum("does more with its channels" in each for each in told) == 2


def test_what_is_known_is_scaled_where_an_architecture_does_more_with_the_rest(
    twin: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one that clamps what a gate multiplies: here, what makes it is left out."""

    def careless(headers: object, *_: object, **__: object) -> Equalization:
        norm, *_, gated = channels_of(headers)[:4]  # type: ignore[arg-type]
        return Equalization({norm: uneven(norm), replace(gated, maker=None): uneven(gated)})

    monkeypatch.setattr(equalize, "factors_of", careless)
    told: list[str] = []
    found = made(twin, tmp_path, told)
    assert found.equalized == 8
    assert sum("what gates multiply are not scaled" in each for each in told) == 1
    written = []

    def observed(headers: object, copies: object, some: Equalization, *more: object) -> None:
        written.append(some.count)
        write_equalized(headers, copies, some, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(equalize, "write_equalized", observed)
    assert made(twin, tmp_path, told).equalized == 8
    assert written == [8]  # the next run knows


@pytest.mark.parametrize("wrong", ["attn_v", "ffn_up"])
def test_only_the_kind_that_is_at_fault_is_left_out(
    wrong: str, twin: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(headers: object, *_: object, **__: object) -> Equalization:
        there = [each for each in channels_of(headers) if each.kind in {"attn_v", "ffn_up"}]  # type: ignore[arg-type]
        factors = {replace(each, maker=None) if each.kind == wrong else each: uneven(each) for each in there}
        return Equalization(factors)

    monkeypatch.setattr(equalize, "factors_of", careless)
    told: list[str] = []
    assert made(twin, tmp_path, told).equalized == 2 * 8
    (said,) = (each for each in told if "are not scaled" in each)
    assert ("values of attention" in said) is (wrong == "attn_v")
    assert ("what gates multiply" in said) is (wrong == "ffn_up")


def test_numbers_that_have_no_room_in_halves_are_found_and_remembered(
    twin: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(headers: object, *_: object, **__: object) -> Equalization:
        norm = channels_of(headers)[0]  # type: ignore[arg-type]
        return Equalization({norm: uneven(norm) * np.float32(1e7)})

    monkeypatch.setattr(equalize, "factors_of", careless)
    told: list[str] = []
    assert made(twin, tmp_path, told).equalized == 0
    assert sum("how numbers are rounded changes too much" in each for each in told) == 1
    assert not list(tmp_path.rglob("*equalized*"))


@pytest.mark.parametrize(("kind", "more"), [("BF16", {}), ("F16", {"experts": 4})])
def test_other_numbers_and_experts_are_equalized_as_well(kind: str, more: dict[str, int], tmp_path: Path) -> None:
    plain = random_models.write(tmp_path / "plain-F32.gguf", dtype=np.float32, **more)  # type: ignore[arg-type]
    source = quantize(plain, kind, tmp_path / "source.gguf").output
    matrix = random_models.write_imatrix(tmp_path / "plain-matrix.gguf", plain)
    factors = {each: uneven(each) for each in channels_of([read_header(source)]) if each.kind.startswith("ffn_up")}
    twin, its = tmp_path / "twin.gguf", tmp_path / "its.gguf"
    write_equalized([read_header(source)], [twin], Equalization(factors), library())
    write_equalized_matrix(matrix, its, Equalization(factors), library())
    found = made((twin, its), tmp_path)
    assert found.equalized
    (file,) = found.files
    assert file.chosen.candidate.equalized


def test_a_path_that_llama_quantize_cannot_record_keeps_it_from_that(twin: tuple[Path, Path], tmp_path: Path) -> None:
    told: list[str] = []
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    assert made(twin, folder, told).equalized == 0
    assert any("longer than llama-quantize can record" in each for each in told)


def test_weights_on_a_lattice_stay_there(twin: tuple[Path, Path]) -> None:
    from ggufkit.allocation.model import open_model

    options = OptimizeOptions(quantize=QuantizeOptions(imatrix=twin[1]))
    model = open_model(twin[0], options.quantize, options.pool, [], ())
    assert equalize.channels_to_scale(model, options) is not None
    trained = replace(model, on_lattice=frozenset({"blk.0.ffn_up.weight"}))
    assert equalize.channels_to_scale(trained, options) is None


def test_adapters_of_the_checkpoint_are_refused(equal: Optimization, tmp_path: Path) -> None:
    from ggufkit.errors import UsageError
    from ggufkit.inference.loaded_model import LoadedModel
    from ggufkit.inference.options import EngineOptions, LoraAdapter
    from ggufkit.inference.serving.options import ServeOptions
    from ggufkit.inference.serving.settings import llama_server_options

    model = equal.files[0].output
    options = EngineOptions(adapters=(LoraAdapter(tmp_path / "adapter.gguf"),))
    with pytest.raises(UsageError, match="equalized weights"):
        LoadedModel.open(model, options)
    with pytest.raises(UsageError, match="equalized weights"):
        llama_server_options(model, read_header(model), ServeOptions(engine=options), tmp_path)


def test_the_report_and_the_document_know_what_was_scaled(equal: Optimization, twin: tuple[Path, Path]) -> None:
    import json

    from ggufkit.allocation.document import document
    from ggufkit.reports.allocation.reading import read_allocation
    from ggufkit.reports.allocation.section import section

    found = document(str(twin[0]), equal, OptimizeOptions(), version="1", build={}, command="")
    text = json.dumps(found, allow_nan=False)
    found = json.loads(text)
    assert found["equalized_channels"] == equal.equalized
    preset = next(each for each in found["results"][0]["candidates"] if each["is_preset"])
    assert preset["predicted_kld"] is None
    assert not preset["is_equalized"]
    read = read_allocation(text, Path("found.json"))
    assert read is not None
    assert f"{equal.equalized} channels scaled" in section(1, read, alone=True)


def test_the_smallest_size_that_is_named_can_be_had(twin: tuple[Path, Path], tmp_path: Path) -> None:
    """It has no room for the key of an equalized file."""
    from ggufkit.errors import UsageError

    options = OptimizeOptions(
        pool="k-quants",
        chunk_tokens=64,
        effort=Effort.FAST,
        quantize=QuantizeOptions(threads=1, imatrix=twin[1]),
        running=replace(OptimizeOptions().running, threads=1),
        folder=tmp_path / "state",
    )
    with pytest.raises(UsageError, match="the smallest file has") as refused:
        optimize(twin[0], [Job(targets.bits_per_weight(0.5), tmp_path / "made.gguf")], dealt(), options)
    said = re.search(r"smallest file has ([\d,]+) bytes", str(refused.value))
    assert said is not None
    least, told = int(said[1].replace(",", "")), list[str]()
    job = Job(targets.size(str(least)), tmp_path / "made.gguf")
    found = optimize(twin[0], [job], dealt(), options, warn=told.append)
    assert found.files[0].bytes == least
    assert any("has no room" in each for each in told)
