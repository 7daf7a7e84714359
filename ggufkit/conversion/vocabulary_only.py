"""A GGUF file with a checkpoint's vocabulary and nothing else to compute with: for tokenizers, and to compare them."""

import time
from pathlib import Path
from typing import Any

from ggufkit.architectures import ArchSpec, spec_for
from ggufkit.checkpoints import Config, read_config
from ggufkit.conversion.convert import ConversionResult, Converter
from ggufkit.conversion.description import general_metadata
from ggufkit.conversion.metadata import model_metadata
from ggufkit.conversion.plan import OutputType, complete
from ggufkit.conversion.vocabulary import TokenizerOptions, vocabulary_metadata
from ggufkit.errors import GgufkitError
from ggufkit.files import PlannedFile, atomic_output, check_output, check_space
from ggufkit.gguf_file.writer import lay_out


def convert_vocabulary(source: Path, output: Path, *, tokenizer: TokenizerOptions | None = None) -> ConversionResult:
    """Write the vocabulary of the checkpoint folder `source`, which need not hold weights, to `output`.

    The file also describes the model, as far as config.json and the model card do; it holds no tensors, and llama.cpp
    loads it where only the vocabulary is asked for (`vocab_only`).

    Raises:
        UnsupportedArchitectureError: no spec of ours knows the architecture.
        CheckpointError: config.json or the tokenizer is missing or malformed.
        OutputError, UsageError: the output cannot or must not be written.
    """
    config = read_config(source)
    check_output(output, inputs=[source, *source.iterdir()])
    started = time.monotonic()
    spec = spec_for(config.architecture, config.model_type)
    remarks: list[str] = []
    general = general_metadata(source, [], warn=remarks.append)
    vocabulary, doubts = vocabulary_metadata(source, config, spec.vocabulary.value, options=tokenizer)
    model = _model(spec, config, remarks)
    metadata = {**general, **model, "general.quantization_version": 2, **vocabulary}
    content = lay_out(spec.name, metadata, []).header
    check_space([PlannedFile(output, len(content))])
    with atomic_output(output) as temporary:
        temporary.write_bytes(content)
    return ConversionResult(
        source=source,
        output=output,
        converter=Converter.NATIVE,
        architecture=spec.name,
        output_type=OutputType.F16,
        tensors=0,
        tensor_types={},
        size_before=0,
        size_after=len(content),
        seconds=time.monotonic() - started,
        warnings=(*remarks, *doubts),
    )


def _model(spec: ArchSpec, config: Config, remarks: list[str]) -> dict[str, Any]:
    """Describe the model where config.json tells enough: a vocabulary is one without that."""
    try:
        found = model_metadata(spec, complete(config, spec))
        lay_out(spec.name, found, [])  # a value of the wrong kind may come out only when it is written
        return found
    except KeyError as error:
        reason = f"config.json has no {error.args[0]!r}"
    except (GgufkitError, TypeError, ValueError, AttributeError, ArithmeticError, IndexError) as error:
        # specs compute with what strangers wrote, here unchecked
        reason = str(error)
    remarks.append(f"the model's sizes are left out: {reason:.200}")
    return {}
