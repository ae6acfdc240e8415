"""ComfyUI as its nodes see it: the package of Secateur's nodes, and models of its three kinds written out."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch

PACKAGE = Path(__file__).parents[1] / "integrations" / "comfyui"


class FolderPaths(SimpleNamespace):
    """ComfyUI's folders of models, by name."""

    def __init__(self, models_dir: str):
        super().__init__(models_dir=models_dir, folders={})

    def add_model_folder_path(self, name: str, folder: str) -> None:
        self.folders.setdefault(name, []).append(Path(folder))

    def get_filename_list(self, name: str) -> list[str]:
        return sorted(str(path.relative_to(f)) for f in self.folders[name] for path in f.rglob("*") if path.is_file())

    def get_full_path(self, name: str, file: str) -> str | None:
        return next((str(folder / file) for folder in self.folders[name] if (folder / file).is_file()), None)


folder_paths = sys.modules["folder_paths"] = FolderPaths("ComfyUI/models")


def package() -> ModuleType:
    """The nodes as ComfyUI imports them: by their folder."""
    spec = importlib.util.spec_from_file_location("comfyui_secateur", PACKAGE / "__init__.py")
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


nodes = package()
tables, samplers = sys.modules["comfyui_secateur.table"], sys.modules["comfyui_secateur.sampler"]


class Sampling:
    """ComfyUI's model_sampling of Stable Diffusion (kinds epsilon and v_prediction) and of flow matching."""

    def __init__(self, kind: str, scheduler):
        self.kind = kind
        if kind == "flow_prediction":
            self.sigmas = torch.arange(1, 1001) / 1000
        else:
            signal = scheduler.alphas_cumprod.double().clamp(min=4.8973451890853435e-08)
            self.sigmas = ((1 - signal) / signal).sqrt().float()
        self.sigma_max = self.sigmas[-1]

    def timestep(self, sigma):
        if self.kind == "flow_prediction":
            return sigma * 1000
        return (sigma.log()[:, None] - self.sigmas.log()).abs().argmin(dim=1)

    def calculate_input(self, sigma, x):
        return x if self.kind == "flow_prediction" else x / (sigma**2 + 1) ** 0.5

    def calculate_denoised(self, sigma, output, x):
        if self.kind == "v_prediction":
            return x / (sigma**2 + 1) - output * sigma / (sigma**2 + 1) ** 0.5
        return x - output * sigma

    def noise_scaling(self, sigma, noise, latent_image, max_denoise=False):
        if self.kind == "flow_prediction":
            return sigma * noise + (1 - sigma) * latent_image
        return noise * ((1 + sigma**2) ** 0.5 if max_denoise else sigma) + latent_image


class Model:
    """A denoiser as ComfyUI gives it to a sampler: x and sigma (B,) to the denoised data."""

    def __init__(self, sampling: Sampling, noise, latent_image):
        self.noise, self.latent_image, self.times = noise, latent_image, []
        self.inner_model = SimpleNamespace(inner_model=SimpleNamespace(model_sampling=sampling))

    def __call__(self, x, sigma, *, guidance):
        sampling = self.inner_model.inner_model.model_sampling
        self.times.append(float(sampling.timestep(sigma)[0]))
        sigma = sigma[:, None, None, None]
        output = guidance * predicted(sampling.calculate_input(sigma, x), self.times[-1])
        return sampling.calculate_denoised(sigma, output, x)


def predicted(x, t):
    """A denoiser that is no linear one."""
    return 0.5 * torch.sin(x + t / 300) + 0.3 * x
