"""One pass writes, byte for byte, what conversion and llama-quantize write in two steps: for every architecture."""

import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
import tokenless
from recipes import RECIPES, checkpoint, golden, wide

from ggufkit.architectures import CATALOGUE, spec_for
from ggufkit.checkpoints import Config
from ggufkit.conversion.execute import execute
from ggufkit.gguf_file.reader import read_header
from ggufkit.llamacpp.find import find
from ggufkit.one_pass import Skeleton, one_pass
from ggufkit.progress import silent
from ggufkit.quantization.plan import QuantizeOptions
from ggufkit.quantization.quantize import carry_out, prepare
from ggufkit.quantization.types import quantization_type

pytestmark = [pytest.mark.engine, pytest.mark.oracle, pytest.mark.slow]

KINDS = ("BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_1", "Q4_K_M", "Q4_0", "IQ4_NL", "Q3_K_M", "Q2_K")
WITH_MATRIX = ("Q4_K_M", "Q4_0", "IQ4_XS")
# Rows of 256 or none: where K-quants apply, and where they fall back.
WIDE, NARROW = (("Q5_K_M", "Q3_K_M"), ("Q4_K_M",)), (KINDS, WITH_MATRIX)


@functools.cache
def one_recipe_of_each(width: str) -> dict[str, str]:
    """Name a recipe of each native architecture, by the architecture's name in GGUF."""
    found: dict[str, str] = {}
    for name in wide.RECIPES if width == "wide" else [name for name in RECIPES if name not in wide.RECIPES]:
        config = Config(golden(name)["config"])
        found.setdefault(spec_for(config.architecture, config.model_type).name, name)
    return found


@pytest.mark.parametrize("width", ["wide", "narrow"])
@pytest.mark.parametrize("architecture", sorted({spec.name for spec in CATALOGUE}))
def test_the_bytes_of_two_steps(architecture: str, width: str, tmp_path: Path):
    source = checkpoint(one_recipe_of_each(width)[architecture], tmp_path / "checkpoint")
    plain, weighted = WIDE if width == "wide" else NARROW
    with tokenless.planned(source, "f16") as conversion:
        skeleton = Skeleton(conversion, tmp_path / "model-F16.gguf")
        with skeleton.path.open("wb") as file:
            file.write(conversion.layout.header)
            file.truncate(conversion.layout.size)
        two_steps = tmp_path / "two-steps.gguf"
        two_steps.touch()
        execute(conversion, two_steps, threads=1, progress=silent)
        matrix = write_matrix(skeleton.path, tmp_path / "importance.gguf")
        for kinds, options in ((plain, QuantizeOptions()), (weighted, QuantizeOptions(imatrix=matrix))):
            plans = [skeleton.plan(quantization_type(kind), options) for kind in kinds]
            jobs = prepare(plans, [tmp_path / f"{kind}.gguf" for kind in kinds], inputs=[])
            carry_out(jobs, one_pass(skeleton, [source / "config.json"]), [source / "config.json"])
            flags = ["--imatrix", matrix] if options.imatrix else []
            different = [
                kind
                for kind in kinds
                if (tmp_path / f"{kind}.gguf").read_bytes() != by_hand(two_steps, kind, tmp_path / "by-hand", flags)
            ]
            assert different == []


def by_hand(source: Path, kind: str, output: Path, flags: list[str | Path]) -> bytes:
    subprocess.run([find().tool("llama-quantize"), *flags, source, output, kind, "1"], check=True, capture_output=True)
    return output.read_bytes()


def write_matrix(model: Path, path: Path) -> Path:
    """Write an importance matrix for all of a model's matrices."""
    writer = gguf.GGUFWriter(path, "", endianess=gguf.GGUFEndian.LITTLE)
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["some-text.txt"])
    writer.add_uint32("imatrix.chunk_count", 3)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, sums in _sums(model):
        writer.add_tensor(f"{name}.in_sum2", sums)
        writer.add_tensor(f"{name}.counts", np.full((len(sums), 1), 1536, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _sums(model: Path) -> Iterator[tuple[str, np.ndarray]]:
    random = np.random.default_rng(0)
    for tensor in read_header(model).tensors:
        if len(tensor.shape) > 1 and tensor.name.startswith(("blk.", "enc.", "dec.")):
            slices = tensor.shape[2] if len(tensor.shape) > 2 else 1
            yield tensor.name, (random.random((slices, tensor.shape[0])) * 100 + 1).astype(np.float32)
