"""The command ``hamnet``.

To add a command, write ``cli/hamnet_cli/NAME.py`` with one function ``NAME`` whose parameters are
the options (``Annotated[..., typer.Option(...)]``), and register it below: ``app.command()(NAME)``;
a group of commands is a ``typer.Typer`` of its own, registered with ``app.add_typer``. Command
modules import only typer, the standard library and `hamnet_cli.common` at their top, everything
else inside the function: ``hamnet --help`` must not wait for numpy, torch or PySCF (a test holds
it). A command prints results to stdout and progress to stderr, and raises `HamnetError` for what
the user can cure.
"""

import errno
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hamnet.allocator import keep_freed_memory
from hamnet.errors import HamnetError
from hamnet_cli.bands import bands
from hamnet_cli.common import complain
from hamnet_cli.compare import compare
from hamnet_cli.data import data
from hamnet_cli.demo import demo
from hamnet_cli.doctor import doctor
from hamnet_cli.evaluate import evaluate
from hamnet_cli.info import info
from hamnet_cli.label import label
from hamnet_cli.predict import predict
from hamnet_cli.scf import scf
from hamnet_cli.select import select
from hamnet_cli.train import train

_CURABLE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.EISDIR,
    errno.ENOTDIR,
}


class HamnetGroup(TyperGroup):
    """Turns errors that the user can cure into one message on stderr and exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except HamnetError as error:
            complain(str(error))
        except OSError as error:
            if error.errno not in _CURABLE:
                raise
            where = f"{error.filename}: " if error.filename else ""
            complain(f"{where}{(error.strerror or str(error)).lower()}")
        raise typer.Exit(1)


app = typer.Typer(
    cls=HamnetGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"hamnet {version('hamnet')}")
        raise typer.Exit


@app.callback()
def main(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Learn electronic-structure Hamiltonians: from a geometry to orbital energies.

    Example: hamnet demo
    """
    keep_freed_memory()


app.command()(demo)
app.command()(label)
app.add_typer(data, name="data")
app.command()(train)
app.command()(evaluate)
app.command()(compare)
app.command()(predict)
app.command()(bands)
app.command()(scf)
app.command()(doctor)
app.command()(select)
app.command()(info)
