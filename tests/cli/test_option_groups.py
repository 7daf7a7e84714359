"""Groups of options: to Typer and to the reader of the help they are options like all others."""

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from ggufkit.cli._option_groups import spread


@dataclass(frozen=True, kw_only=True)
class Colours:
    ink: Annotated[str, typer.Option("-i", "--ink", help="Of the pen.")] = "black"
    paper: Annotated[str | None, typer.Option("--paper")] = None


@dataclass(frozen=True, kw_only=True)
class Brighter(Colours):
    ink: Annotated[str, typer.Option("-i", "--ink", help="Of the brush.")] = "red"


def run(command: object, *arguments: str) -> str:
    app = typer.Typer(rich_markup_mode=None)
    app.command()(spread(command))
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_fields_are_options_and_come_back_as_the_group() -> None:
    def write(*, page: int, colours: Colours, bold: bool = False) -> None:
        """Write a page."""
        typer.echo(f"{page} {colours} {bold}")

    assert run(write, "7", "-i", "blue", "--bold") == f"7 {Colours(ink='blue')} True\n"
    assert run(write, "7", "--paper", "grey") == f"7 {Colours(paper='grey')} False\n"
    assert "Write a page." in run(write, "--help")
    assert "Of the pen." in run(write, "--help")


def test_a_group_can_say_an_option_anew() -> None:
    def paint(*, colours: Brighter) -> None:
        typer.echo(colours)

    assert run(paint) == f"{Brighter()}\n"
    assert "Of the brush." in run(paint, "--help")


def test_a_command_without_groups_stays_as_it_is() -> None:
    def write(page: int) -> None: ...

    assert spread(write) is write


def test_two_options_of_one_name_are_a_mistake() -> None:
    def write(*, ink: str, colours: Colours) -> None: ...

    with pytest.raises(ValueError, match="ink"):
        spread(write)
