"""LinearMultistepScheduler: a diffusers scheduler that takes its steps from a table of numbers.

Any deterministic sampler is such a table: a stock scheduler's, one whose held calls are left out, or one with fitted rows.
A pipeline saved with it names ["secateur", "LinearMultistepScheduler"]. This module imports diffusers, so import it late.
"""

from __future__ import annotations

import threading
from collections.abc import Container, Sequence
from typing import Any, ClassVar

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerOutput
from torch import Tensor

from secateur.artifact import frozen, thawed
from secateur.pipeline.table import Table

Row = Sequence[float]  # (a, w₀, w₁, …), see `rows`


class Running(threading.local):
    """Where the image of each thread is: its next call, the call that it begins at, and the latest predictions.

    asked: steps that were asked for.
    """

    step_index: int | None = None
    begin_index: int | None = None
    predictions: Sequence[Tensor] = ()
    asked: int | None = None

    def __reduce__(self) -> Any:  # a copy begins anew
        return Running, ()


class LinearMultistepScheduler(SchedulerMixin, ConfigMixin):
    """A sampler of fixed calls: the latents after each are a fixed sum of those before it and of the predictions so far.

    timesteps: (T,), of the calls, noisiest first. rows: T rows (a, w₀, w₁, …): after call j the latents are
    a·x + w₀·y_j + w₁·y_{j−1} + …, with x the latents before it and y the denoiser's output at each call. If a pipeline begins
    in the middle, predictions that are missing are taken to be the first one. input_scales: (T,), factors of the latents
    before each call. signal_rates, noise_rates: (T,), x = signal·data + noise·ε at each call, for `add_noise`.
    init_noise_sigma: standard deviation of the initial latents. num_train_timesteps, prediction_type: of the denoiser.
    Raises ValueError if the numbers are not of as many calls. also: other numbers of steps that may be asked for; no setting.
    """

    _compatibles: ClassVar = [kind.name for kind in KarrasDiffusionSchedulers]
    order = 1
    also: Container[int | None] = ()

    @register_to_config
    def __init__(
        self,
        timesteps: Row = (999,),
        rows: Sequence[Row] = ((1.0, 0.0),),
        input_scales: Row = (1.0,),
        signal_rates: Row = (),
        noise_rates: Row = (),
        init_noise_sigma: float = 1.0,
        num_train_timesteps: int = 1000,
        prediction_type: str = "epsilon",
    ):
        check_numbers(timesteps, rows, input_scales)
        self._times, self._rows, self._scales = tuple(timesteps), tuple(map(tuple, rows)), tuple(input_scales)
        self._levels, self._trained = list(zip(signal_rates, noise_rates, strict=True)), num_train_timesteps
        self._window, self.init_noise_sigma, self._running = max(map(len, rows)) - 1, init_noise_sigma, Running()
        self.set_timesteps(len(timesteps))

    @staticmethod
    def of(table: Table, scheduler: SchedulerMixin) -> LinearMultistepScheduler:
        """The scheduler that follows a table and keeps the other settings of a stock one."""
        numbers = thawed(frozen(table.numbers()))  # lists, as JSON gives them back
        return LinearMultistepScheduler.from_config(scheduler.config, **numbers)  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return self._trained

    @property
    def step_index(self) -> int | None:
        """The call that comes next; None before the first of an image."""
        return self._running.step_index

    @property
    def begin_index(self) -> int | None:
        """The call at which an image begins, if the pipeline said so."""
        return self._running.begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin the image at a later call, as image-to-image does. Raises ValueError if other steps were asked for."""
        self._running.begin_index = self._begun(begin_index)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Row | None = None,
        sigmas: Row | None = None,
        mu: float | None = None,
    ) -> None:
        """Begin an image. Raises ValueError for other timesteps than the table's, or another number of steps but for `also`.

        sigmas, mu: what pipelines of flow matching pass. Of sigmas only their number is read, of mu nothing.
        """
        calls, now = len(self._times), self._running
        now.asked = next((len(values) for values in (timesteps, sigmas) if values is not None), num_inference_steps)
        if now.asked not in self.also:
            self._check_asked()
        if timesteps is not None and tuple(map(float, timesteps)) != tuple(map(float, self._times)):
            raise ValueError(f"this scheduler has timesteps of its own: leave out timesteps= and ask for {calls} steps")
        self.timesteps = torch.tensor(self._times, device=device)
        self.num_inference_steps = calls
        now.step_index, now.begin_index, now.predictions = None, None, ()

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """Latents as the denoiser gets them."""
        scale = self._scales[self._place(timestep)]
        return sample if scale == 1 else sample * scale

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        """The latents (B, C, H, W) after a call, from the denoiser's output and the latents before it."""
        place, now = self._place(timestep), self._running
        now.predictions = [model_output, *now.predictions][: self._window]
        latents = combined(self._rows[place], sample, now.predictions)
        now.step_index = place + 1
        if now.step_index == len(self._rows):
            now.predictions = ()
        return SchedulerOutput(prev_sample=latents) if return_dict else (latents,)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Any) -> Tensor:
        """Data (B, ...) with the noise of some of the table's own timesteps, (B,) or one for all."""
        if not self._levels:
            raise ValueError("the sampler of this table cannot say how noisy its latents are: begin at pure noise")
        places = [self.index_for_timestep(t) for t in torch.as_tensor(timesteps).flatten()]
        rates = torch.tensor([self._levels[k] for k in places], device=noise.device, dtype=noise.dtype)
        signal, scale = rates.T.reshape(2, -1, *[1] * (noise.ndim - 1))
        return signal * original_samples + scale * noise

    def scale_noise(self, sample: Tensor, timestep: Any, noise: Tensor) -> Tensor:
        """`add_noise`, as pipelines of flow matching call it."""
        return self.add_noise(sample, noise, timestep)

    def index_for_timestep(self, timestep: Any) -> int:
        """The first call at a timestep. Raises ValueError if there is none."""
        times = torch.tensor(self._times).tolist()  # rounded as `timesteps` are
        if (t := float(timestep)) not in times:
            raise ValueError(f"this scheduler makes no call at timestep {t:g}: use one of {', '.join(f'{s:g}' for s in times)}")
        return times.index(t)

    def _place(self, timestep: Any) -> int:
        """The call that a timestep is of: they are counted from where the image began."""
        now = self._running
        if now.step_index is None:
            now.step_index = self._begun(self.index_for_timestep(timestep)) if now.begin_index is None else now.begin_index
        return now.step_index

    def _begun(self, place: int) -> int:
        if place:
            self._check_asked()
        return place

    def _check_asked(self) -> None:
        if (asked := self._running.asked) != (calls := len(self._times)):
            raise ValueError(f"this scheduler makes {calls} calls and {asked} steps were asked for: ask for {calls}")


def combined(row: Row, sample: Tensor, predictions: Sequence[Tensor]) -> Tensor:
    """The latents after a call, computed in at least float32. predictions: the newest first."""
    carry, *weights = row
    kind = torch.promote_types(sample.dtype, torch.float32)
    total = carry * sample.to(kind)
    for k, weight in enumerate(weights):
        if weight:
            total = total + weight * predictions[min(k, len(predictions) - 1)].to(kind)
    return total.to(sample.dtype)


def check_numbers(timesteps: Row, rows: Sequence[Row], scales: Row) -> None:
    """Raises ValueError if the numbers of a table are not of as many calls."""
    if not len(timesteps) or not len(timesteps) == len(rows) == len(scales):
        found = f"{len(timesteps)} timesteps, {len(rows)} rows and {len(scales)} input_scales"
        raise ValueError(f"found {found}: give one of each for every call")
    for j, row in enumerate(rows):
        if not 2 <= len(row) <= j + 2:
            raise ValueError(f"row {j} has {len(row)} numbers: give the latents' factor and 1 to {j + 1} weights")


LinearMultistepScheduler.__module__ = "secateur"  # by which diffusers finds it again
