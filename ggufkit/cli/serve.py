"""`ggufkit serve`: a model for every OpenAI client, and a page to chat with it."""

from pathlib import Path
from typing import Annotated

import typer

from ggufkit.cli import _engine_options as running
from ggufkit.cli import _model, _output
from ggufkit.cli import _placement_options as placing

_CHAT = "What becomes of a conversation"
_ACCESS = "Who may use it"


def command(
    model: Annotated[str, typer.Argument(help=_model.HELP, show_default=False)],
    host: Annotated[str, typer.Option("--host", help="Address to listen on.", rich_help_panel=_ACCESS)] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = 8080,
    slots: Annotated[
        int | None,
        typer.Option(
            "-np", "--parallel", min=1, help="Requests answered at the same time. Default: 4, or as many as fit."
        ),
    ] = None,
    alias: Annotated[
        str | None, typer.Option("-a", "--alias", help="The model's name for clients.", show_default="the file's")
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file",
            help="File with keys, one a line; any of them opens. Or the variable GGUFKIT_API_KEY.",
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-origin",
            help="Web site whose pages may use the server, as https://example.org. May be repeated.",
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            help="Further name under which this machine is known. May be repeated.",
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the chat page in a browser.")] = False,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Serve the chat page at /.")] = True,
    embeddings: Annotated[
        bool,
        typer.Option("--embeddings/--no-embeddings", help="Answer /v1/embeddings too, by a second llama-server."),
    ] = True,
    drain_seconds: Annotated[
        float, typer.Option("--drain-seconds", min=0, help="Time for running requests to end after SIGTERM.")
    ] = 30.0,
    profile: running.Profile = "auto",
    context_size: Annotated[
        int | None,
        typer.Option(
            "-c",
            "--ctx-size",
            min=0,
            help="Tokens of context for each request; 0: as many as the model was trained for. Default: the same, but "
            "at most 8192.",
            show_default=False,
            rich_help_panel=running.PANEL,
        ),
    ] = None,
    threads: running.Threads = None,
    threads_batch: running.ThreadsBatch = None,
    batch_size: running.BatchSize = None,
    micro_batch_size: running.MicroBatchSize = None,
    flash_attention: running.FlashAttentionMode = None,
    cache_type_k: running.CacheTypeK = None,
    cache_type_v: running.CacheTypeV = None,
    load_mode: running.Loading = None,
    lora: running.Lora = None,
    chat_template: Annotated[
        Path | None,
        typer.Option("--chat-template", help="Jinja file in place of the model's own template.", rich_help_panel=_CHAT),
    ] = None,
    template_arguments: Annotated[
        str | None,
        typer.Option(
            "--chat-template-kwargs", metavar="JSON", help="Variables for the template.", rich_help_panel=_CHAT
        ),
    ] = None,
    reasoning: Annotated[
        str, typer.Option("--reasoning", metavar="on|off|auto", help="Think before answering.", rich_help_panel=_CHAT)
    ] = "auto",
    gpu_layers: placing.GpuLayers = "auto",
    tensor_split: placing.TensorSplit = None,
    split_mode: placing.SplitMode = "layer",
    main_gpu: placing.MainGpu = 0,
    override_tensor: placing.OverrideTensor = None,
    n_cpu_moe: placing.CpuMoe = 0,
    rpc: placing.Rpc = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show requests and llama-server's log.")] = False,
) -> None:
    """Serve a model: OpenAI's chat, completions and embeddings at /v1, /health, /metrics, and a chat page at /.

    It listens on this machine only unless --host says otherwise, which needs a key. llama-server does the work; when
    it dies it is started again. Ctrl-C or SIGTERM lets running requests end first; a second one does not.
    """
    import asyncio

    from ggufkit.cli import _until_stopped
    from ggufkit.errors import UsageError
    from ggufkit.inference.options import EngineOptions
    from ggufkit.inference.serving import ServeOptions, Server
    from ggufkit.inference.serving.options import check_template, read_keys

    if open_page and not page:
        raise UsageError("--open wants the page that --no-page leaves out")
    if reasoning not in {"on", "off", "auto"}:
        raise UsageError(f"--reasoning is on, off or auto, not {reasoning}")
    check_template(chat_template, template_arguments)
    where = placing.engine_options(
        gpu_layers=gpu_layers,
        tensor_split=tensor_split,
        split_mode=split_mode,
        main_gpu=main_gpu,
        override_tensor=override_tensor,
        n_cpu_moe=n_cpu_moe,
        rpc=rpc,
    )
    keys = read_keys(api_key_file)
    ServeOptions(host=host, keys=keys)  # refuse what would be open to the world before a model is fetched
    path = _model.resolve(model, kind="gguf")
    how = running.engine_options(
        path,
        profile,
        threads=threads,
        threads_batch=threads_batch,
        context_size=context_size,
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        flash_attention=flash_attention,
        cache_type_k=cache_type_k,
        cache_type_v=cache_type_v,
        load_mode=load_mode,
        lora=lora,
    )
    options = ServeOptions(
        host=host,
        port=port,
        slots=slots,
        alias=alias,
        keys=keys,
        origins=tuple(allow_origin or ()),
        hosts=tuple(allow_host or ()),
        engine=EngineOptions(**how, **where),
        embeddings=embeddings,
        chat_template=chat_template,
        template_arguments=template_arguments,
        reasoning=reasoning,
        drain_seconds=drain_seconds,
        page=page,
    )
    log = _output.note if verbose else lambda _: None
    server = Server(path, options, tell=_output.note, log=log)
    server.listen()

    def ready() -> None:
        _output.note(f"{server.name} is ready at {server.url}   (OpenAI clients: {server.url}/v1; Ctrl-C ends it)")
        if open_page:
            import threading

            # A browser that runs in this terminal must not hold up the server.
            threading.Thread(target=_open, args=(server.url,), daemon=True).start()

    async def work(stop: asyncio.Event) -> None:
        if cut := await server.run(stop, on_ready=ready):
            _output.warn(f"{cut} running requests were cut off after {drain_seconds:g} s")

    if status := _until_stopped.run(work):
        raise typer.Exit(status)


def _open(url: str) -> None:
    import webbrowser

    if not webbrowser.open(url):
        _output.note(f"no browser was found here; the page is at {url}")
