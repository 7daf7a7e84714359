"""What llama-server is told about a model: the options of a server, and what follows from the model's header."""

import dataclasses
from pathlib import Path

from ggufkit.errors import InputError, UsageError
from ggufkit.gguf_file.reader import GgufHeader
from ggufkit.inference.attention import attention
from ggufkit.inference.model_file import cache_bytes, check_adapters, context_tokens
from ggufkit.inference.options import EngineOptions
from ggufkit.inference.placement import Placement
from ggufkit.inference.serving.options import ServeOptions
from ggufkit.llamacpp import cpu
from ggufkit.llamacpp.server import LlamaServerOptions

_DEFAULT_SLOTS = 4
_MIB = 1 << 20
_PROMPTS_SHARE, _MOST_FOR_PROMPTS = 8, 4096  # one part in 8 of the free memory, at most 4 GiB, keeps old prompts


def llama_server_options(model: Path, header: GgufHeader, options: ServeOptions, folder: Path) -> LlamaServerOptions:
    """Work out how llama-server is to run; its socket lies in `folder`.

    Raises:
        InputError: the context takes more memory than is free.
        UsageError: adapters do not fit the model.
    """
    engine = options.engine
    check_adapters(header, engine.adapters)
    context = context_tokens(header, engine.context_size)
    available = cpu.available_memory()
    slots = options.slots or _affordable_slots(header, engine, context, available)
    makes_embeddings = _makes_embeddings(header)
    threads = engine.threads or cpu.usable_cores()
    return LlamaServerOptions(
        model=model,
        socket=folder / "model.sock",
        alias=options.alias or model.stem,
        context_size=context * slots,
        slots=slots,
        threads=threads,
        threads_batch=engine.threads_batch or threads,
        # A text of which a vector is made must be computed at once.
        batch_size=max(engine.batch_size, context) if makes_embeddings else engine.batch_size,
        micro_batch_size=max(engine.micro_batch_size, context) if makes_embeddings else engine.micro_batch_size,
        flash_attention=engine.flash_attention.value,
        cache_type_k=engine.cache_type_k.value,
        cache_type_v=engine.cache_type_v.value,
        load_mode=engine.load_mode.value,
        embeddings=makes_embeddings,
        pooling="mean" if makes_embeddings and not _number(header, "pooling_type") else None,
        cache_ram=min(available // _PROMPTS_SHARE // _MIB, _MOST_FOR_PROMPTS),
        chat_template=options.chat_template,
        template_arguments=options.template_arguments,
        reasoning=options.reasoning,
        adapters=tuple(
            (_without_marks(adapter.path, folder / f"adapter-{number}.gguf"), adapter.scale)
            for number, adapter in enumerate(engine.adapters)
        ),
        offload_cache=engine.offload_cache,
        offload_operations=engine.offload_operations,
        full_window_cache=engine.full_window_cache,
        repack=engine.repack,
    )


def placed(options: LlamaServerOptions, header: GgufHeader, placement: Placement) -> LlamaServerOptions:
    """Add where the weights go, which `placement` has decided, and how attention is computed there.

    Raises:
        InputError: all is with the CPU, and the context takes more memory than is free.
        UsageError: llama-server's command line cannot say it.
    """
    engine = placement.options
    if not engine.gpu_layers:
        _check_memory(header, engine, options)
    for override in engine.tensor_overrides:
        if "," in override.pattern:
            raise UsageError(f"llama-server takes no pattern with a comma: {override.pattern}")
    if not options.embeddings:  # they compute a whole text at once, however long it is
        chosen = attention(engine, header, options.context_size // options.slots, on_cpu=placement.on_cpu)
        options = dataclasses.replace(options, flash_attention=chosen.flash, micro_batch_size=chosen.micro_batch_size)
    return dataclasses.replace(
        options,
        gpu_layers=engine.gpu_layers if isinstance(engine.gpu_layers, int) else -1,
        split_mode=engine.split_mode.value,
        main_gpu=engine.main_gpu,
        tensor_split=engine.tensor_split,
        tensor_overrides=tuple((override.pattern, override.buffer_type) for override in engine.tensor_overrides),
        devices=engine.devices,
        rpc_servers=engine.rpc_servers,
    )


def for_embeddings(options: LlamaServerOptions, engine: EngineOptions) -> LlamaServerOptions:
    """Return how the same model is run for embeddings: on the weights in the page cache that the other one maps.

    `engine`: what was asked for, before it was decided how the other one computes attention.
    """
    per_slot = options.context_size // options.slots
    batch = min(per_slot, 2048)
    return dataclasses.replace(
        options,
        socket=options.socket.with_name("embeddings.sock"),
        context_size=per_slot,
        slots=1,
        # A text is computed at once: its vectors are averaged.
        batch_size=batch,
        micro_batch_size=batch,
        flash_attention=engine.flash_attention.value,
        embeddings=True,
        pooling=options.pooling or "mean",
        repack=False,
        cache_ram=0,
        chat_template=None,
        template_arguments=None,
        # Workers serve one program at a time: the other one.
        gpu_layers=0 if options.rpc_servers else options.gpu_layers,
        tensor_split=() if options.rpc_servers else options.tensor_split,
        tensor_overrides=() if options.rpc_servers else options.tensor_overrides,
        rpc_servers=(),
    )


def _affordable_slots(header: GgufHeader, engine: EngineOptions, context: int, available: int) -> int:
    """Take the usual number, or fewer, so that their caches take less than half of the free memory."""
    one = cache_bytes(header, context, engine.cache_type_k, engine.cache_type_v)
    return max(1, min(_DEFAULT_SLOTS, available // 2 // one)) if one else _DEFAULT_SLOTS


def _without_marks(path: Path, link: Path) -> Path:
    """Return a name that llama-server's command line can hold: it cuts lists of adapters at commas and colons."""
    if not path.is_file():
        raise InputError(f"there is no adapter {path}")
    link.symlink_to(path.absolute())
    return link


def _check_memory(header: GgufHeader, engine: EngineOptions, options: LlamaServerOptions) -> None:
    needed = cache_bytes(header, options.context_size, engine.cache_type_k, engine.cache_type_v)
    available = cpu.available_memory()
    if needed > available:
        raise InputError(
            f"{options.slots} x {options.context_size // options.slots} tokens of context take {needed / 1e9:.1f} GB, "
            f"but {available / 1e9:.1f} GB of memory are free",
            hint="a smaller -c, or a smaller -np",
        )


def _makes_embeddings(header: GgufHeader) -> bool:
    """Tell whether the model was made for embeddings.

    Its file says how the vectors of tokens become one, or that each token sees those behind it, as encoders have it.
    """
    causal = header.metadata.get(f"{header.metadata.get('general.architecture')}.attention.causal", True)
    return _number(header, "pooling_type") > 0 or causal is False


def _number(header: GgufHeader, name: str) -> int:
    value = header.metadata.get(f"{header.metadata.get('general.architecture')}.{name}", 0)
    return value if isinstance(value, int) else 0
