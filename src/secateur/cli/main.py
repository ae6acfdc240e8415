"""The command line: each command calls public functions, prints a table, and with --json one JSON document as its last line."""

from __future__ import annotations

import signal
import sys
from importlib import metadata
from typing import Annotated, Any, NoReturn

import typer

from secateur.cli import compare, distil, export, generate, prune, search, share, show, studio
from secateur.cli.long_job import INTERRUPTED
from secateur.files import shown

app = typer.Typer(no_args_is_help=True, add_completion=False)


def show_version(asked: bool) -> None:
    """Print the version and stop."""
    if asked:
        print(metadata.version("secateur"))
        raise typer.Exit


@app.callback()
def secateur(
    version: Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True, help="print the version")] = False,
) -> None:
    """Draw nearly the same images with less compute: by fewer calls of a diffusion model's denoiser, or fewer layers in it."""


def main() -> None:
    """Run the command; bad input ends in one sentence on stderr and exit code 1, Ctrl-C with 130 and SIGTERM with 143."""
    terminated: list[int] = []

    def interrupt(number: int, _: Any) -> None:
        terminated.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        app()
    except SystemExit as end:
        if end.code != INTERRUPTED:
            raise
        print("secateur: stopped; every file that it left is whole", file=sys.stderr)
        raise SystemExit(128 + terminated[0] if terminated else INTERRUPTED) from None
    except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
        stop(str(error))
    except (MemoryError, RuntimeError) as error:
        if "memory" not in f"{type(error).__name__} {error}".lower():
            raise
        stop(f"out of memory ({str(error)[:120]}): make fewer images at once by --batch-size, or use --dtype bfloat16")
    finally:
        signal.signal(signal.SIGTERM, before)


def stop(sentence: str) -> NoReturn:
    """The end of a command that could not do what was asked."""
    print(f"secateur: {shown(' '.join(sentence.split()))}", file=sys.stderr)
    raise SystemExit(1) from None


for commands in (search, export, prune, distil, generate, studio, compare, show, share):
    app.add_typer(commands.app)

if __name__ == "__main__":
    main()
