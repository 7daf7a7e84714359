"""`ggufkit export ollama`: a model into Ollama's store, or into a Modelfile; the store's models listed and removed."""

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggufkit.cli import _export_ollama_view, _model, _options, _output
from ggufkit.cli._help import GroupedCommand

if TYPE_CHECKING:
    from ggufkit.exports.ollama import ExportOptions, Plan, Store

_PAIRS = {"--parameter": "=", "--message": ": "}
_LIKE_A_FILE = re.compile(r"(?!\w+://)\S*(/\S*|\.(txt|md))")


class PairedOptions(GroupedCommand):
    """Takes `--parameter KEY VALUE` and `--message ROLE TEXT`, repeated; Typer's lists hold one word each.

    `--parameter KEY=VALUE` and `--message "ROLE: TEXT"` are taken as well.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Join the two words of a pair before Typer sees them."""
        options = {name for each in self.get_params(ctx) for name in each.opts}
        joined: list[str] = []
        rest = list(args)
        while rest:
            word = rest.pop(0)
            joined.append(word)
            if word == "--":
                joined += rest
                break
            if word not in _PAIRS or not rest:
                continue
            separator, first = _PAIRS[word], rest.pop(0)
            # A value may well begin with a dash, as -1 and the stop text --- do.
            is_pair = separator not in first and rest and rest[0].partition("=")[0] not in options
            joined.append(f"{first}{separator}{rest.pop(0)}" if is_pair else first)
        return super().parse_args(ctx, joined)


COMMAND_CLASS = PairedOptions


def command(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help=_model.HELP, show_default=False)] = None,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME[:TAG]", help="What Ollama shall call it.", show_default=False)
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            "--store",
            metavar="DIR",
            help="The model store; default: $OLLAMA_MODELS, else ~/.ollama/models.",
            show_default=False,
        ),
    ] = None,
    modelfile: Annotated[
        Path | None,
        typer.Option(
            "--modelfile", metavar="OUT", help="Write a Modelfile instead (`ollama create` reads it); - prints it."
        ),
    ] = None,
    template: Annotated[
        str,
        typer.Option(
            "--template",
            metavar="jinja|go|FILE",
            help="jinja: Ollama uses the model's own; go: convert it, for Ollama before May 2026; or a Go template.",
        ),
    ] = "jinja",
    system: Annotated[str, typer.Option("--system", metavar="TEXT", help="A system message.", show_default=False)] = "",
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter",
            metavar="KEY VALUE",
            help="A parameter, such as num_ctx 8192, in place of the model's own. May be given several times.",
            show_default=False,
        ),
    ] = None,
    licenses: Annotated[
        list[str] | None,
        typer.Option(
            "--license", metavar="FILE|TEXT", help="A license. May be given several times.", show_default=False
        ),
    ] = None,
    messages: Annotated[
        list[str] | None,
        typer.Option(
            "--message",
            metavar="ROLE TEXT",
            help="A turn that conversations begin with (system, user or assistant). May be given several times.",
            show_default=False,
        ),
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option("--adapter", metavar="FILE", help="A LoRA adapter as GGUF.", show_default=False)
    ] = None,
    mmproj: Annotated[
        Path | None,
        typer.Option("--mmproj", metavar="FILE", help="A projector for images as GGUF.", show_default=False),
    ] = None,
    generation_config: Annotated[
        Path | None,
        typer.Option(
            "--generation-config",
            metavar="FILE",
            help="Sampling defaults; default: generation_config.json beside the model.",
            show_default=False,
        ),
    ] = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="Copy the model, where a link to it would do and take no disk.")
    ] = False,
    show_list: Annotated[
        bool, typer.Option("--list", help="List the models of the store, and do nothing else.")
    ] = False,
    remove: Annotated[
        str | None,
        typer.Option("--remove", metavar="NAME", help="Remove a model from the store.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be written, and write nothing.")] = False,
    as_json: _options.Json = False,
    quiet: _options.Quiet = False,
) -> None:
    """Write a model straight into Ollama's model store. Neither a running server nor `ollama` itself is needed.

    The file keeps its hash; it is linked, not copied, where the file system allows that. Stop texts, context size and
    sampling defaults come from the model. A server that runs shows the model at its next list.
    """
    from ggufkit.errors import UsageError
    from ggufkit.exports.ollama import Store, check_writable, default_store, parse_name, plan_export

    place = Store(store or default_store())
    if show_list or remove:
        if model or modelfile or (show_list and remove):
            raise UsageError("--list and --remove stand alone", hint="ggufkit export ollama --list")
        if remove:
            _export_ollama_view.run_removal(place, parse_name(remove), dry_run=dry_run, as_json=as_json, quiet=quiet)
        else:
            _export_ollama_view.run_list(place, as_json=as_json, quiet=quiet)
        return
    if model is None:
        raise UsageError("name a model, and what Ollama shall call it", hint="ggufkit export ollama MODEL NAME[:TAG]")
    if name is None and modelfile is None:
        raise UsageError(
            "what shall Ollama call the model?", hint=f"ggufkit export ollama {shlex.quote(model)} NAME[:TAG]"
        )
    wanted = parse_name(name) if name else None
    options = _export_options(system, parameters, licenses, messages, adapter, mmproj, generation_config)
    if modelfile is None and not dry_run:
        check_writable(place, _again(model, name, place), Path(model))
    path = _model.resolve(model, kind="gguf", quiet=quiet or as_json)
    options = _with_template(options, template, path, quiet=quiet or as_json)
    plan = plan_export(path, options)
    for warning in plan.warnings:
        _output.warn(warning)
    if modelfile is not None:
        _write_modelfile(plan, options, modelfile, as_json=as_json, quiet=quiet, dry_run=dry_run)
    elif wanted is not None:
        _export_ollama_view.run_export(plan, wanted, place, copy=copy, dry_run=dry_run, as_json=as_json, quiet=quiet)


def _export_options(
    system: str,
    parameters: list[str] | None,
    licenses: list[str] | None,
    messages: list[str] | None,
    adapter: Path | None,
    projector: Path | None,
    generation_config: Path | None,
) -> "ExportOptions":
    from ggufkit.errors import UsageError
    from ggufkit.exports.ollama import ExportOptions
    from ggufkit.exports.ollama.messages import checked
    from ggufkit.exports.ollama.parameters import read_parameters

    pairs = []
    for option, texts in (
        ("system", [system]),
        ("parameter", parameters),
        ("license", licenses),
        ("message", messages),
    ):
        if any("\ud800" <= character <= "\udfff" for text in texts or () for character in text):
            raise UsageError(f"--{option} has bytes that are not UTF-8")  # Python holds them as half a pair each
    for text in parameters or ():
        key, found, value = text.partition("=")
        if not found:
            raise UsageError(f"--parameter {text} has no value", hint="--parameter KEY VALUE")
        pairs.append((key, value))
    turns = []
    for text in messages or ():
        role, found, content = text.partition(": ")
        if not found:
            raise UsageError(f"--message {text} has no text", hint="--message user TEXT")
        turns.append(checked(role, content))
    return ExportOptions(
        system,
        read_parameters(pairs),
        tuple(_license(text) for text in licenses or ()),
        tuple(turns),
        adapter=adapter,
        projector=projector,
        generation_config=generation_config,
    )


def _license(text: str) -> str:
    """Read a license from a file, when the text names one. Its line ends stay as they are."""
    import os.path

    from ggufkit.errors import InputError

    if not os.path.exists(text):  # noqa: PTH110 - of any text
        if _LIKE_A_FILE.fullmatch(text):
            _output.warn(f"there is no file {text}: these words become the license")
        return text
    try:
        return Path(text).read_bytes().decode()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the license {text}: {error}") from error


def _with_template(options: "ExportOptions", template: str, model: Path, *, quiet: bool) -> "ExportOptions":
    """Convert the model's chat template, or read a Go template, when one of them is asked for."""
    if template == "jinja":
        return options
    from dataclasses import replace

    from ggufkit.errors import InputError
    from ggufkit.exports.go_template import GoTemplateError, LeftOutError
    from ggufkit.exports.ollama.chat import parsed
    from ggufkit.exports.ollama.model_template import go_template_of
    from ggufkit.gguf_file.reader import read_header

    if template == "go":
        found = go_template_of(read_header(model))
        for warning in found.warnings:
            _output.warn(warning)
        if not quiet:
            _output.note(f"chat template: {found.family or 'of no family that is known'}, converted to Go")
        return replace(options, template=found.source)
    try:
        text = Path(template).read_bytes().decode()
        parsed(text)
    except LeftOutError as error:
        _output.warn(f"{template} was not checked: {error}")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read the template {template}: {error}", hint="--template is jinja, go, or a file"
        ) from error
    except GoTemplateError as error:
        raise InputError(f"{template} is no Go template that Ollama runs: {error}") from error
    return replace(options, template=text)


def _write_modelfile(
    plan: "Plan", options: "ExportOptions", output: Path, *, as_json: bool, quiet: bool, dry_run: bool
) -> None:
    from ggufkit.exports.ollama import modelfile
    from ggufkit.files import check_output, write_atomically

    text = modelfile.write(modelfile.commands_of(plan, options))
    written = not dry_run and output != Path("-")
    if written:
        check_output(output, inputs=[path for _, path in plan.files])
        write_atomically(output, text.encode())
    if as_json:
        _output.print_json(
            {"modelfile": str(output), "text": text, "written": written, "warnings": list(plan.warnings)}
        )
    elif not written:
        print(text, end="")
    elif quiet:
        print(output)
    else:
        print(f"{output}: ollama create NAME -f {shlex.quote(str(output))}")


def _again(model: str, name: str | None, store: "Store") -> str:
    """Spell the command for another user, who may have another home and another current folder."""
    path = model if _model.name_on_hub(model) else str(Path(model).absolute())
    return shlex.join(["export", "ollama", path, name or "NAME", "--store", str(store.path)])
