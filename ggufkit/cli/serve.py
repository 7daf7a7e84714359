"""`ggufkit serve`: a model for every OpenAI client, and a page to chat with it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ggufkit.cli import _engine_options, _model, _options, _output
from ggufkit.cli._engine_options import EngineChoices
from ggufkit.cli._placement_options import PlacementChoices
from ggufkit.cli._template_options import TemplateChoices
from ggufkit.counting import counted

_ACCESS = "Who may use it"


@dataclass(frozen=True, kw_only=True)
class _EngineChoices(EngineChoices):
    """Every request has a context of its own."""

    context_size: Annotated[
        int | None,
        typer.Option(
            "-c",
            "--ctx-size",
            min=0,
            max=_options.MOST_TOKENS,
            help="Tokens of context for each request; 0: as many as the model was trained for. Default: the same, but "
            "at most 8192.",
            show_default=False,
            rich_help_panel=_engine_options.PANEL,
        ),
    ] = None


def command(
    *,
    model: Annotated[str, typer.Argument(metavar="MODEL", help=_model.HELP, show_default=False)],
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on.", rich_help_panel=_ACCESS)
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0: any that is free.")
    ] = 8080,
    slots: Annotated[
        int | None,
        typer.Option(
            "-np", "--parallel", min=1, help="Requests answered at the same time. Default: 4, or as many as fit."
        ),
    ] = None,
    alias: Annotated[
        str | None,
        typer.Option(
            "-a",
            "--alias",
            metavar="NAME",
            help="The model's name for clients. Default: the file's.",
            show_default=False,
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file",
            metavar="FILE",
            help="File with keys, one a line; any of them opens. Or the variable GGUFKIT_API_KEY.",
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-origin",
            metavar="URL",
            help="Web site whose pages may use the server, as https://example.org. May be given several times.",
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="Further name under which this machine is known. May be given several times.",
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
    ] = 30,
    engine: _EngineChoices,
    template: TemplateChoices,
    placement: PlacementChoices,
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
    check_template(template.chat_template, template.chat_template_kwargs)
    where = placement.options()
    keys = read_keys(api_key_file)
    ServeOptions(host=host, keys=keys)  # refuse what would be open to the world before a model is fetched
    path = _model.resolve(model, kind="gguf")
    options = ServeOptions(
        host=host,
        port=port,
        slots=slots,
        alias=alias,
        keys=keys,
        origins=tuple(allow_origin or ()),
        hosts=tuple(allow_host or ()),
        engine=EngineOptions(**engine.options(path), **where),
        embeddings=embeddings,
        chat_template=template.chat_template,
        template_arguments=template.chat_template_kwargs,
        reasoning=template.reasoning or "auto",
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
            _output.warn(
                f"{counted(cut, 'running request was', 'running requests were')} cut off after {drain_seconds:g} s"
            )

    if status := _until_stopped.run(work):
        raise typer.Exit(status)


def _open(url: str) -> None:
    import webbrowser

    if not webbrowser.open(url):
        _output.note(f"no browser was found here; the page is at {url}")
