"""Install the torch build that suits this machine into the running Python, and say which: `python install_torch.py`.

With an NVIDIA GPU, the registry's CUDA build. Without, the CPU build, a tenth of its size: from pip's own sources where they
have one, else through uv, which knows where PyTorch keeps it. An installed torch stays.
"""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
import sys

VERSION = "2.13.0"


def has_gpu() -> bool:
    """Whether an NVIDIA driver answers."""
    found = shutil.which("nvidia-smi")
    return found is not None and subprocess.run([found, "-L"], capture_output=True).returncode == 0


def install(*words: str) -> bool:
    return subprocess.run([sys.executable, "-m", *words]).returncode == 0


def install_cpu() -> bool:
    """True once a CPU build is in; macOS has no other."""
    if platform.system() == "Darwin":
        return install("pip", "install", "-q", f"torch=={VERSION}")
    quiet = subprocess.run([sys.executable, "-m", "pip", "install", "-q", f"torch=={VERSION}+cpu"], capture_output=True)
    if quiet.returncode == 0:
        return True
    uv = ("uv", "pip", "install", "--python", sys.executable, "--torch-backend", "cpu", f"torch=={VERSION}")
    return install("pip", "install", "-q", "uv") and install(*uv)


def main() -> None:
    try:
        print(f"torch {importlib.metadata.version('torch')} is already installed")
        return
    except importlib.metadata.PackageNotFoundError:
        gpu = has_gpu()
    print(
        f"installing torch {VERSION}: {'CUDA build, a GPU was found' if gpu else 'CPU build, no GPU was found'}",
        flush=True,
    )
    done = install("pip", "install", "-q", f"torch=={VERSION}") if gpu else install_cpu()
    if not done:
        raise SystemExit("torch could not be installed: see the messages above, install it yourself, then run make again")
    print(f"torch {importlib.metadata.version('torch')} is installed")


if __name__ == "__main__":
    main()
