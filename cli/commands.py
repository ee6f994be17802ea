"""Commands whose TAB costs no more than their help.

While a shell asks for completions, words are only told apart. Typer would also convert them, for which it loads
pydantic: longer than a TAB may take.
"""

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


def told_apart(command: Any, ctx: Any, args: list[str]) -> list[str]:
    """Which words belong to which parameter; returns those that are left."""
    parser = command.make_parser(ctx)
    given, left, _ = parser.parse_args(args=list(args))
    for parameter in command.get_params(ctx):
        value, source = parameter.consume_value(ctx, given)
        ctx.set_parameter_source(parameter.name, source)
        ctx.params[parameter.name] = value
    ctx._opt_prefixes.update(parser._opt_prefixes)
    return list(left)


class Command(TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        ctx.args = told_apart(self, ctx, args)
        return list(ctx.args)


class Group(TyperGroup):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        left = told_apart(self, ctx, args)
        ctx._protected_args, ctx.args = left[:1], left[1:]
        return list(ctx.args)

    def _main_shell_completion(self, *given: Any, **named: Any) -> None:
        from cli.shells import prepare

        prepare()
        super()._main_shell_completion(*given, **named)


class App(typer.Typer):
    """Makes those commands."""

    def command(self, name: str | None = None, **settings: Any) -> Any:
        return super().command(name, **{"cls": Command} | settings)


def noun() -> typer.Typer:
    """An app for the commands of one noun."""
    return App(
        cls=Group,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
