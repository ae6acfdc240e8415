"""Schedulers by their names."""

import diffusers
import pytest

from secateur.pipeline.schedulers import SOLVERS, scheduler_like, scheduler_signature


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_goes_by_its_name_and_keeps_the_betas(name):
    own = diffusers.PNDMScheduler(beta_start=0.001, timestep_spacing="trailing", steps_offset=1)
    kind, options = SOLVERS[name]
    found = scheduler_like(own, name, {})
    assert scheduler_signature(found) == scheduler_signature(scheduler_like(own, kind, options))
    assert (type(found).__name__, found.config.beta_start) == (kind, 0.001)
    assert options.items() <= dict(found.config).items()


def test_an_unknown_scheduler_is_answered_with_names_that_are_known():
    with pytest.raises(ValueError, match=r"no scheduler 'Karras': give a class such as .*, or one of DDIM, .*UniPC Karras"):
        scheduler_like(diffusers.DDIMScheduler(), "Karras", {})
