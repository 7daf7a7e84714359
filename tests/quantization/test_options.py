"""All options of llama-quantize: its bytes, sizes known before, and no mistake that passes in silence."""

import subprocess
from pathlib import Path

import pytest
import tiny_gguf

from ggufkit.errors import GgufFileError, InputError, UsageError, VerificationError
from ggufkit.gguf_file.reader import read_header
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp import ggml
from ggufkit.llamacpp.find import VARIABLE, find
from ggufkit.quantization.offered import offered_type, offered_types
from ggufkit.quantization.plan import QuantizeOptions, plan
from ggufkit.quantization.quantize import quantize
from ggufkit.quantization.source import before_pruning, check_loads
from ggufkit.quantization.types import COPY, quantization_type

pytestmark = pytest.mark.engine

Q4 = quantization_type("Q4_K_M")


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of five blocks."""
    return tiny_gguf.write_model(tmp_path_factory.mktemp("deep") / "deep-F16.gguf", blocks=5, feed_forward=256)


@pytest.fixture(scope="module")
def parts(models: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A split model."""
    folder = tmp_path_factory.mktemp("parts")
    split = [find().tool("llama-gguf-split"), "--split-max-size", "1M", models / "even-F16.gguf", folder / "part-F16"]
    subprocess.run(split, check=True, capture_output=True)
    return sorted(folder.glob("*.gguf"))


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({"include_weights": ("attn_q", "ffn_up")}, ["--include-weights", "attn_q", "--include-weights", "ffn_up"]),
        ({"exclude_weights": ("ffn_down",)}, ["--exclude-weights", "ffn_down"]),
        ({"overrides": (("general.name", "str:Ümlaut"), ("llama.context_length", "int:77"))}, None),
        ({"overrides": (("llama.rope.freq_base", "float:12.5"), ("x.y", "bool:true"))}, None),
        ({"prune_layers": (0,)}, ["--prune-layers", "0"]),
        ({"max_buffer_size": 1}, ["--max-buffer-size", "1"]),
        ({"prune_layers": (1,)}, ["--prune-layers", "1"]),
    ],
    ids=["include", "exclude", "text and integer", "float and bool", "first layer", "small buffer", "last layer"],
)
@pytest.mark.parametrize("kind", ["Q4_K_M", "Q2_K"])
def test_options_do_what_they_do_by_hand(kind: str, options: dict, flags: list[str], models: Path, tmp_path: Path):
    source, matrix = models / "even-F16.gguf", tiny_gguf.write_imatrix(tmp_path / "imatrix.gguf")
    if flags is None:
        flags = [word for key, value in options["overrides"] for word in ("--override-kv", f"{key}={value}")]
    chosen = QuantizeOptions(imatrix=matrix, **options)
    planned = plan(source, quantization_type(kind), chosen)
    result = quantize(source, kind, tmp_path / "ours.gguf", chosen)
    theirs = tiny_gguf.by_hand(source, kind, tmp_path / "theirs.gguf", "--imatrix", matrix, *flags)
    assert (tmp_path / "ours.gguf").read_bytes() == theirs
    assert planned.bytes_after == result.bytes_after == len(theirs)


@pytest.mark.oracle
@pytest.mark.parametrize("pruned", [(0,), (2, 3), (0, 4), (1, 3)])
def test_pruned_layers_move_up_and_keep_their_weights(pruned: tuple[int, ...], deep: Path, tmp_path: Path):
    result = quantize(deep, COPY, tmp_path / "out.gguf", QuantizeOptions(prune_layers=pruned))
    flags = ["--prune-layers", ",".join(map(str, pruned))]
    assert (tmp_path / "out.gguf").read_bytes() == tiny_gguf.by_hand(deep, "COPY", tmp_path / "hand.gguf", *flags)
    left = [block for block in range(5) if block not in pruned]
    before, after = (dict(_contents(path)) for path in (deep, result.output))
    for name, content in after.items():
        assert before[before_pruning(name, pruned)] == content
    assert read_header(result.output).metadata["llama.block_count"] == len(left)
    for number, block in enumerate(left):
        assert before_pruning(f"blk.{number}.ffn_up.weight", pruned) == f"blk.{block}.ffn_up.weight"
    check_loads(result.output)


def _contents(path: Path) -> list[tuple[str, bytes]]:
    header, content = read_header(path), path.read_bytes()
    return [(tensor.name, content[tensor.offset : tensor.offset + tensor.size]) for tensor in header.tensors]


def test_a_key_that_would_make_the_model_useless_is_noticed(deep: Path, tmp_path: Path):
    options = QuantizeOptions(overrides=(("llama.embedding_length", "int:512"),))
    with pytest.raises(
        VerificationError, match=r"llama\.cpp could not load .*out\.gguf: tensor .* wrong shape"
    ) as caught:
        quantize(deep, Q4, tmp_path / "out.gguf", options)
    assert "--override-kv would have made it so" in str(caught.value.hint)
    assert not list(tmp_path.iterdir())


@pytest.mark.oracle
def test_a_split_model_may_stay_split(parts: list[Path], tmp_path: Path):
    options = QuantizeOptions(keep_split=True)
    planned = plan(parts[0], Q4, options)
    output = tmp_path / "a.gguf folder" / "out-Q4_K_M.gguf"
    output.parent.mkdir()
    result = quantize(parts[0], Q4, output, options)
    command = [find().tool("llama-quantize"), "--keep-split", parts[0], tmp_path / "hand.gguf", "Q4_K_M", "2"]
    subprocess.run(command, check=True, capture_output=True)
    assert [path.name for path in result.outputs] == [
        f"out-Q4_K_M-{number:05d}-of-{len(parts):05d}.gguf" for number in range(1, len(parts) + 1)
    ]
    for ours, theirs, size in zip(
        result.outputs, sorted(tmp_path.glob("hand-*.gguf")), planned.part_bytes, strict=True
    ):
        assert ours.read_bytes() == theirs.read_bytes()
        assert ours.stat().st_size == size
    assert sorted(output.parent.iterdir()) == list(result.outputs)
    with pytest.raises(UsageError, match=r"--keep-split: .* is one file"):
        plan(_joined(parts, tmp_path), Q4, options)
    with pytest.raises(UsageError, match="same file"):
        quantize(parts[0], Q4, parts[0].with_name("part-F16.gguf"), options)


def _joined(parts: list[Path], folder: Path) -> Path:
    return quantize(parts[0], "COPY", folder / "joined.gguf").output


def test_copy_changes_no_weight(parts: list[Path], models: Path, tmp_path: Path):
    joined = _joined(parts, tmp_path)
    assert dict(_contents(joined)) == dict(_contents(models / "even-F16.gguf"))
    assert read_header(joined).metadata["general.file_type"] == 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"include_weights": ("a",), "exclude_weights": ("b",)}, "cannot be used together"),
        ({"include_weights": ("a",)}, "and none is given"),
        ({"prune_layers": (7,)}, "no layer 7; they are 0 to 1"),
        ({"prune_layers": (0, 1)}, "no layer would be left"),
        ({"overrides": (("general.alignment", "int:64"),)}, "pads with 32 bytes"),
        ({"overrides": (("general.file_type", "int:1"),)}, "it would lie"),
        ({"overrides": (("x", "int:-1"),)}, "without a sign"),
        ({"overrides": (("x", "int:1.5"),)}, "'1.5' is no int"),
        ({"overrides": (("x", "text:a"),)}, "not of the form KEY=TYPE:VALUE"),
        ({"overrides": (("x", "bool:yes"),)}, "true or false"),
        ({"overrides": (("x", "str:" + "a" * 128),)}, "at most 127 bytes"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict, reason: str, models: Path):
    with pytest.raises(UsageError, match=reason):
        plan(models / "even-F16.gguf", Q4, QuantizeOptions(**options))


def test_weights_to_include_must_be_in_the_matrix(models: Path, tmp_path: Path):
    matrix = tiny_gguf.write_imatrix(tmp_path / "imatrix.gguf")
    for options, reason in (
        ({"include_weights": ("attn_x",)}, "--include-weights attn_x: no tensor"),
        ({"exclude_weights": ("blk",)}, "nothing of .* is left"),
    ):
        with pytest.raises(UsageError, match=reason):
            plan(models / "even-F16.gguf", Q4, QuantizeOptions(imatrix=matrix, **options))


# --- guards


@pytest.mark.parametrize("lost", ["blk.1.ffn_down.weight", "output_norm.weight", "token_embd.weight"])
def test_a_model_that_lacks_a_tensor_is_refused_though_llama_quantize_takes_it(lost: str, tmp_path: Path):
    source = tiny_gguf.write_model(tmp_path / "lacking-F16.gguf", leave_out=[lost])
    tiny_gguf.by_hand(source, "Q8_0", tmp_path / "theirs.gguf")
    with pytest.raises(GgufFileError, match=rf"llama\.cpp cannot load .*: tensor '{lost}' not found"):
        quantize(source, "Q8_0", tmp_path / "ours.gguf")
    assert not (tmp_path / "ours.gguf").exists()


def test_a_file_type_that_lies_is_refused(models: Path, tmp_path: Path):
    claims = tiny_gguf.write_model(tmp_path / "claims-Q4.gguf", file_type=15)
    with pytest.raises(UsageError, match=r"general\.file_type says Q4_K_M, but the matrices are 16 F16") as caught:
        quantize(claims, "Q8_0", tmp_path / "out.gguf")
    assert "--allow-requantize" in str(caught.value.hint)
    meant = quantize(claims, "Q8_0", tmp_path / "out.gguf", QuantizeOptions(allow_requantize=True))
    assert "says Q4_K_M" in meant.notes[0]
    quantized = quantize(models / "even-F16.gguf", "Q8_0", tmp_path / "q8.gguf").output
    hides = tmp_path / "hides.gguf"
    hides.write_bytes(quantized.read_bytes().replace(_file_type(7), _file_type(1), 1))
    with pytest.raises(UsageError, match=r"general\.file_type says F16, but the matrices are 16 Q8_0"):
        quantize(hides, "Q4_0", tmp_path / "out.gguf")
    harmless = tiny_gguf.write_model(tmp_path / "harmless.gguf", file_type=32)
    assert "says BF16" in quantize(harmless, "Q8_0", tmp_path / "out.gguf").notes[0]


def _file_type(number: int) -> bytes:
    return b"general.file_type" + (4).to_bytes(4, "little") + number.to_bytes(4, "little")


def test_a_matrix_of_another_model_is_refused_by_its_names(models: Path, deep: Path, tmp_path: Path):
    matrix = QuantizeOptions(imatrix=tiny_gguf.write_imatrix(tmp_path / "imatrix.gguf"))
    same_widths = tiny_gguf.write_model(tmp_path / "longer-F16.gguf", blocks=3)
    with pytest.raises(InputError, match="not for this model: it ends with block 1, and the model with block 2"):
        plan(same_widths, Q4, matrix)
    shorter = tiny_gguf.write_model(tmp_path / "shorter-F16.gguf", blocks=1)
    with pytest.raises(InputError, match="not for this model: it knows block 1, and the model ends with block 0"):
        plan(shorter, Q4, matrix)
    # A model whose layers were pruned on the way is still the one that was measured.
    assert plan(models / "even-F16.gguf", Q4, QuantizeOptions(imatrix=matrix.imatrix, prune_layers=(0,)))


NOT_FINITE = (
    "subprocess.run(real); content = bytearray(output.read_bytes());"
    " content[-34:-32] = b'\\x00\\x7e'; output.write_bytes(content)"  # the scale of the last block of Q8_0: nan
)
OTHER_FILE_TYPE = (
    "subprocess.run(real); output.write_bytes(output.read_bytes().replace("
    "b'general.file_type\\x04\\0\\0\\0\\x07', b'general.file_type\\x04\\0\\0\\0\\x0f', 1))"
)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("misbehave", "reason"),
    [(NOT_FINITE, "would hold what is not finite"), (OTHER_FILE_TYPE, r"general\.file_type is 15, expected 7")],
    ids=["a scale that is no number", "another type in the metadata"],
)
def test_what_was_written_is_looked_at(misbehave: str, reason: str, models: Path, tmp_path: Path, monkeypatch):
    assert ggml.load() is not None  # before the build is replaced by one without libraries
    monkeypatch.setenv(VARIABLE, str(tiny_gguf.fake_build(tmp_path / "build", misbehave)))
    with pytest.raises(VerificationError, match=reason):
        quantize(models / "even-F16.gguf", "Q8_0", tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


# --- the types of the program


def test_all_names_of_the_program_are_offered():
    offers, asked = offered_types()
    assert asked
    program = subprocess.run([find().tool("llama-quantize"), "--help"], capture_output=True, text=True, check=False)
    table = program.stdout.partition("allowed quantization types")[2]
    theirs = {line.partition(" : ")[0].split()[-1] for line in table.splitlines() if " : " in line}
    assert {offer.name for offer in offers} == theirs
    assert all(offer.offered and offer.known for offer in offers)
    assert {offer.name: offer.alias_of for offer in offers if offer.alias_of}["Q4_K"] == "Q4_K_M"


def test_a_program_with_other_types_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    build = tiny_gguf.fake_build(tmp_path / "build", "")
    tool = build / "bin" / "llama-quantize"
    tool.write_text(
        "#!/bin/sh\necho ' allowed quantization types'\necho '  99  or  Q3_K_XL :  3.30 bpw, of tomorrow'\n"
        "echo '   7  or  Q8_0    :  7.96G'\nexit 1\n"
    )
    monkeypatch.setenv(VARIABLE, str(build))
    new = offered_type("q3_k_xl")
    assert (new.number, new.base, new.bits_per_weight) == (99, TensorType.Q3_K, 3.3)
    assert new.good_for == "3.30 bpw, of tomorrow"
    with pytest.raises(UsageError, match=r"this build of llama\.cpp does not know the type IQ1_S"):
        offered_type("iq1_s")
    with pytest.raises(UsageError, match="unknown quantization type 'Q9_K'"):
        offered_type("Q9_K")
    offers, _ = offered_types()
    assert {offer.name for offer in offers if offer.offered} == {"Q8_0", "Q3_K_XL"}
