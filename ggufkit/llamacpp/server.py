"""llama.cpp's llama-server: its command line, its environment, and starting it on a socket of ours."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ggufkit.llamacpp import find
from ggufkit.llamacpp.child import Child

PROGRAM = "llama-server"
# They would change what we ask for, or hold secrets that it has no use for.
_HIDDEN_PREFIXES = ("LLAMA_ARG_", "LLAMA_API_KEY", "AIP_", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "GGUFKIT_")


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaServerOptions:
    """What llama-server is asked for; names and values as llama.cpp has them.

    Attributes:
        socket: Unix socket to listen on; its name ends with `.sock`.
        context_size: tokens of all slots together.
        slots: requests that are answered at the same time.
        embeddings: answer only requests for embeddings.
        pooling: how the vectors of tokens become one; None: what the model's file says.
        cache_ram: MiB of prompts that are kept in memory for later requests.
        template_arguments: JSON object of variables for the chat template.
        adapters: LoRA adapters with their scales.
        tensor_overrides: pairs of a pattern and a buffer type.
    """

    model: Path
    socket: Path
    alias: str
    context_size: int
    slots: int
    threads: int
    threads_batch: int
    batch_size: int = 2048
    micro_batch_size: int = 512
    flash_attention: str = "auto"
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    load_mode: str = "auto"
    embeddings: bool = False
    pooling: str | None = None
    repack: bool = True
    cache_ram: int = 2048
    chat_template: Path | None = None
    template_arguments: str | None = None
    reasoning: str = "auto"
    adapters: tuple[tuple[Path, float], ...] = ()
    gpu_layers: int = 0
    split_mode: str = "layer"
    main_gpu: int = 0
    tensor_split: tuple[float, ...] = ()
    tensor_overrides: tuple[tuple[str, str], ...] = ()
    devices: tuple[str, ...] | None = None
    rpc_servers: tuple[str, ...] = ()
    offload_cache: bool = True
    offload_operations: bool = True
    full_window_cache: bool = False


def argv(program: Path, options: LlamaServerOptions) -> list[str]:
    """Return the command. Workers come first in it: devices and buffer types may be theirs."""
    words = [str(program)]
    if options.rpc_servers:
        words += ["--rpc", ",".join(options.rpc_servers)]
    pairs: dict[str, object] = {
        "--model": options.model,
        "--host": options.socket,
        "--alias": options.alias,
        "--ctx-size": options.context_size,
        "--parallel": options.slots,
        "--threads": options.threads,
        "--threads-batch": options.threads_batch,
        "--batch-size": options.batch_size,
        "--ubatch-size": options.micro_batch_size,
        "--flash-attn": options.flash_attention,
        "--cache-type-k": options.cache_type_k,
        "--cache-type-v": options.cache_type_v,
        "--load-mode": options.load_mode,
        "--cache-ram": options.cache_ram,
        "--n-gpu-layers": options.gpu_layers,
        "--split-mode": options.split_mode,
        "--main-gpu": options.main_gpu,
        "--fit": "off",  # where things go was decided already
        "--cors-origins": "localhost",
        "--reasoning": options.reasoning,
        "--log-colors": "off",
    }
    words += [word for name, value in pairs.items() for word in (name, str(value))]
    if options.embeddings:
        words.append("--embeddings")
    if options.pooling:
        words += ["--pooling", options.pooling]
    if options.chat_template:
        words += ["--jinja", "--chat-template-file", str(options.chat_template)]
    if options.template_arguments:
        words += ["--chat-template-kwargs", options.template_arguments]
    if options.tensor_split:
        words += ["--tensor-split", ",".join(f"{share:g}" for share in options.tensor_split)]
    if options.devices is not None:
        words += ["--device", ",".join(options.devices) or "none"]
    for pattern, buffer_type in options.tensor_overrides:
        words += ["--override-tensor", f"{pattern}={buffer_type}"]
    for path, scale in options.adapters:
        words += ["--lora-scaled", f"{path}:{scale:g}"]
    flags = {
        "--no-repack": not options.repack,
        "--no-kv-offload": not options.offload_cache,
        "--no-op-offload": not options.offload_operations,
        "--swa-full": options.full_window_cache,
        "--metrics": True,
        "--offline": True,
    }
    return words + [name for name, wanted in flags.items() if wanted]


def environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for llama-server: ours, without those that would change what it does."""
    kept = {name: value for name, value in ours.items() if not name.startswith(_HIDDEN_PREFIXES)}
    return {**kept, "GGML_NO_BACKTRACE": "1"}


def start(options: LlamaServerOptions, on_line: Callable[[str], None], on_end: Callable[[], None]) -> Child:
    """Start it.

    Raises:
        MissingDependencyError: the build has no llama-server.
        LlamaCppError: it could not be started.
    """
    command = argv(find.find().tool(PROGRAM), options)
    options.socket.unlink(missing_ok=True)  # one that died has left it there
    return Child(command, environment=environment(os.environ), on_line=on_line, on_end=on_end)
