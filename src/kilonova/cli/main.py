"""The command `kilonova`: verbs match by unique prefix as in 2010; exit 2 on usage, 1 on failure with one line."""

from __future__ import annotations

import importlib
import os
import sys

import click

from kilonova import __version__
from kilonova.errors import KilonovaError

_COMMANDS = {
    "up": "kilonova.cli.lifecycle:up",
    "down": "kilonova.cli.lifecycle:down",
    "status": "kilonova.cli.lifecycle:status",
    "service": "kilonova.cli.lifecycle:service",
    "sandbox": "kilonova.cli.sandbox:sandbox",
    "doctor": "kilonova.cli.doctor:doctor",
    "explain": "kilonova.cli.explain:explain",
    "network": "kilonova.cli.network:network",
    "floating": "kilonova.cli.floating:floating",
    "vpn": "kilonova.cli.vpn:vpn",
    "project": "kilonova.cli.project:project",
    "user": "kilonova.cli.lists:user",
    "role": "kilonova.cli.lists:role",
    "image": "kilonova.cli.lists:image",
    "host": "kilonova.cli.lists:host",
}
"""Verb -> where it is; loaded only when called, because `kilonova up` is counted in milliseconds."""


class PrefixGroup(click.Group):
    """A group whose commands answer to any unambiguous beginning of their name."""

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        names = self.list_commands(context)
        if name in names:
            return self._load(context, name)
        matches = [candidate for candidate in names if candidate.startswith(name)]
        if len(matches) > 1:
            context.fail(f"'{name}' could be any of: {', '.join(matches)}")
        return self._load(context, matches[0]) if matches else None

    def _load(self, context: click.Context, name: str) -> click.Command | None:
        return super().get_command(context, name)

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        _, command, rest = super().resolve_command(context, args)
        return (command.name if command else None), command, rest


class _LazyGroup(PrefixGroup):
    def list_commands(self, context: click.Context) -> list[str]:
        return list(_COMMANDS)

    def _load(self, context: click.Context, name: str) -> click.Command | None:
        module, attribute = _COMMANDS[name].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="kilonova")
def kilonova() -> None:
    """An infrastructure cloud that speaks the OpenStack APIs.

    \b
    Example, as root:
      kilonova up --sandbox --detach
      source /var/lib/kilonova/openrc
      openstack image create --public --disk-format qcow2 --file build/image/tiny.qcow2 tiny
      openstack server create --image tiny --flavor m1.nano --nic auto --wait web

    \b
    Verbs may be shortened as long as one alone begins that way: kilonova n li
    """


def main(args: list[str] | None = None) -> None:
    """Run the command line; every failure is one line on standard error."""
    # The root shell of a plain `su` leaves out where dnsmasq, nft and others are.
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    try:
        kilonova.main(args=args, prog_name="kilonova", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2 if isinstance(error, click.UsageError) else 1)
    except click.exceptions.Exit as ending:
        sys.exit(ending.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except KilonovaError as error:
        click.echo(f"kilonova: {error.message}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(0)
    except PermissionError as error:
        click.echo(f"kilonova: {error.filename or error}: not allowed to this user; use sudo", err=True)
        sys.exit(1)
    except OSError as error:
        click.echo(f"kilonova: {error}", err=True)
        sys.exit(1)


def example(text: str) -> str:
    """The epilogue of a command's help: an example that works as it stands."""
    return f"\b\nExample: {text}"


if __name__ == "__main__":
    main()
