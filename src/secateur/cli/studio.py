"""The command that opens the studio in a browser."""

from __future__ import annotations

import socket
from contextlib import suppress
from functools import partial
from threading import Event
from typing import Annotated

import typer

from secateur.cli.terminal import AUTO, DRAW, Device, Dtype, check_pipe, console, load_pipe

app = typer.Typer()
MISSING = "the studio is made with gradio, which is not installed: pip install 'secateur[studio]'"


@app.command(rich_help_panel=DRAW)
def studio(
    pipes: Annotated[
        list[str] | None, typer.Argument(metavar="[PIPE]...", help="pipes to choose among, besides the zoo's")
    ] = None,
    host: Annotated[
        str, typer.Option(help="address to listen on; on others than this one, no other pipes can be typed")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="port to listen on")] = 7860,
    dtype: Dtype = AUTO,
    device: Device = AUTO,
) -> None:
    """Draw a prompt three ways side by side in the browser, choose a budget, search and look at the schedule."""
    for pipe in pipes or ():
        check_pipe(pipe, dtype=dtype, device=device)
    check_listen(host, port)
    try:
        from secateur.studio import app as page
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("secateur"):
            raise
        raise ModuleNotFoundError(MISSING) from error
    load = partial(load_pipe, dtype=dtype, device=device)
    with page.served(load, pipes or (), host=host, port=port) as address, suppress(KeyboardInterrupt):
        console.print(f"the studio is at {address} until you press Ctrl-C", soft_wrap=True)
        Event().wait()


def check_listen(host: str, port: int) -> None:
    """Raises OSError if nothing can listen there, because the port is taken or the address is another machine's."""
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise OSError(f"nothing can listen at {host}:{port}: give another port by --port, or another --host") from error
