"""What click lacks for the command line: a command that needs no name, and options out of `choices`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from background_remover.choices import Choice

PHOTOS = ""  # the name of the command that is meant where none is named


class UnnamedContext(click.Context):
    """The context of the command that needs no name."""

    @property
    def command_path(self) -> str:
        """As usage has it."""
        return self.parent.command_path if self.parent else super().command_path


class PhotosCommand(click.Command):
    """The command that needs no name."""

    context_class = UnnamedContext


class Commands(click.Group):
    """Commands, of which `photos` needs no name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's, with the name put before what is no other command."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help", "--version"):
            args = [PHOTOS, *args]
        return super().parse_args(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """That of `photos`, and the other commands."""
        photos = self.commands[PHOTOS]
        photos.format_help(click.Context(photos, info_name=ctx.info_name), formatter)
        with formatter.section("Commands"):
            others = [command for name, command in self.commands.items() if name != PHOTOS]
            formatter.write_dl([(command.name or "", command.get_short_help_str(80)) for command in others])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """The commands, and what `photos` takes."""
        photos = self.commands[PHOTOS]
        found = super().shell_complete(ctx, incomplete)
        inner = click.Context(photos, parent=ctx, info_name=PHOTOS)
        return [*found, *photos.shell_complete(inner, incomplete), *photos.params[0].shell_complete(inner, incomplete)]


def choice_option(choice: Choice) -> click.Option:
    """The option for a choice, which without it has its own default."""
    words = choice.name.replace("_", "-")
    name = f"--{words}"
    if choice.kind is bool:
        return click.Option([f"{name}/--no-{words}"], default=None, help=choice.text)
    shown = f"{choice.text}  [{choice.default}]" if choice.default not in (None, "") else choice.text
    kind: Any = click.Choice(choice.values) if choice.values else choice.kind
    return click.Option([name], type=kind, default=None, help=shown)


def taken(options: dict[str, Any], choices: tuple[Choice, ...]) -> dict[str, Any]:
    """Those of the options that are such choices and were given, which are then no longer among the options."""
    given = {choice.name: options.pop(choice.name, None) for choice in choices}
    return {name: value for name, value in given.items() if value is not None}


def with_engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for which weights are run, and on what."""
    command = click.option("--precision", help="fp32, bf16, fp16 or int8  [the quickest that keeps the matte]")(command)
    command = click.option("--device", help="cuda, mps or cpu  [the first that is there]")(command)
    return click.option("--weights", help="a name, a Hub repo, a file or a folder  [RMBG_WEIGHTS]")(command)
