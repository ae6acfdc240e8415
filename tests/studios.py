"""A studio in a process of its own, at a port that is free."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def server(*pipes: str, env: dict[str, str] | None = None) -> Iterator[str]:
    """The address of a studio with these pipes. env: what its process finds there besides what there is."""
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        port = own.getsockname()[1]
    words = [sys.executable, "-m", "secateur", "studio", *pipes, "--port", str(port)]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(words, env={**os.environ, **(env or {})}, **quiet) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert f"http://127.0.0.1:{port}/" in line, line
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()
