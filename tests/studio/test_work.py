"""What the studio draws, searches and takes, without its page: against the same done by hand."""

from __future__ import annotations

from threading import Thread

import pytest

import secateur
from secateur.denoiser import macs
from secateur.measuring.compare import data_uri
from secateur.pipeline.generate import generate
from secateur.pipeline.schedulers import SOLVERS, scheduled
from secateur.searching.task import affordable_calls
from secateur.studio import work
from secateur.studio.work import Drawn, Loaded, Wish

COUNTED: dict = {}  # once for all tests
WISH = Wish("a b", calls=3, steps=6, seed=5, guidance="2")


@pytest.fixture
def loaded(sd) -> Loaded:
    return Loaded("tiny", sd, counted=COUNTED)


def by_hand(pipe, steps: int) -> str:
    return data_uri(generate(pipe, ["a b"], seeds=[5], num_inference_steps=steps, guidance_scale=2.0)[0])


def pictures(loaded, wish=WISH, schedules=()) -> list[Drawn]:
    return [news for news in work.pictures(loaded, wish, schedules) if isinstance(news, Drawn)]


def chosen(pipe, *run: int):
    return secateur.chosen(secateur.find_blocks(pipe.unet), 6, run=run)


def test_three_pictures_are_those_drawn_by_hand(sd, loaded):
    dense, plain, ours = pictures(loaded)
    assert dense.image == by_hand(sd, 6)
    with scheduled(sd, *SOLVERS["DPM-Solver++"]):
        assert plain.image == by_hand(sd, 3)
    with secateur.apply(sd, keep=0.5):
        assert ours.image == by_hand(sd, 6)
    assert len({dense.image, plain.image, ours.image}) == 3
    assert [len(one.calls) for one in (dense, plain, ours)] == [6, 3, 3]
    assert [one.row["calls"] for one in (dense, plain, ours)] == [6, 3, 3]
    assert "not searched" in ours.variant.name


def test_a_schedule_at_the_budget_is_followed_and_no_other(sd, loaded):
    schedules = [chosen(sd, 0, 1, 2), chosen(sd, 0, 4, 5), chosen(sd, 0, 3)]
    ours = pictures(loaded, schedules=schedules)[-1]
    with secateur.apply(sd, schedules[1]):
        assert ours.image == by_hand(sd, 6)
    assert (ours.variant.schedule, ours.variant.name) == (schedules[1], "as loaded")
    assert pictures(loaded, Wish("a b", calls=3, steps=7), schedules)[-1].variant.group == "even"  # it is for six steps


def test_macs_are_those_counted(sd, loaded):
    costs = macs.count(sd.unet)
    dense, plain, ours = pictures(loaded)
    assert dense.row["macs_linear"] == 2 * 6 * costs.call()  # with guidance
    assert plain.row["macs_linear"] == ours.row["macs_linear"] == 2 * 3 * costs.call()
    assert ours.row["keep_linear"] == pytest.approx(0.5)


def test_another_budget_does_not_draw_the_dense_picture_again(sd, loaded):
    calls: list[int] = []
    first = pictures(loaded)[0]
    with sd.unet.register_forward_hook(lambda *_: calls.append(1)):
        again = pictures(loaded, Wish("a b", calls=2, steps=6, seed=5, guidance="2"))
    assert again[0].image == first.image
    assert len(calls) == 2 + 2 + 2  # a warm-up, plain steps, ours
    assert pictures(loaded, Wish("a b", calls=2, steps=6, seed=6, guidance="2"))[0].image != first.image


def test_a_drawing_that_is_stopped_leaves_the_pipe_as_it_was(sd, loaded):
    own, before = sd.scheduler, by_hand(sd, 6)
    steps = work.pictures(loaded, WISH, ())
    for news in steps:
        if isinstance(news, work.View) and "held" in news.doing:
            break
    steps.close()
    assert sd.scheduler is own
    assert (not sd.unet._forward_pre_hooks, by_hand(sd, 6)) == (True, before)


def test_a_drawing_waits_until_the_one_before_has_ended(loaded):
    first = work.pictures(loaded, WISH, ())
    next(first)
    images: list[str] = []
    second = Thread(target=lambda: images.extend(one.image for one in pictures(loaded)))
    second.start()
    second.join(0.3)
    assert images == []
    first.close()
    second.join()
    assert images == [one.image for one in pictures(loaded)]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"prompt": " "}, "no prompt"),
        ({"calls": 7}, "budget of 7"),
        ({"calls": 0}, "budget of 0"),
        ({"steps": 1}, "found 1 steps"),
        ({"steps": 10**6}, "steps"),
        ({"seed": -1}, "seed"),
        ({"guidance": "a lot"}, "guidance scale 'a lot'"),
        ({"guidance": "-1"}, "guidance scale"),
        ({"steps": None}, "a number is missing"),
    ],
)
def test_a_wish_that_cannot_be_is_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        Wish(**{"prompt": "a", "calls": 3, "steps": 6, **wrong})


def test_one_pipe_is_kept_and_only_named_ones_are_loaded():
    names: list[str] = []
    open_pipe = work.keeper(lambda name: names.append(name), only=("mine",))
    for name in ("mine", " mine ", "emoji-sd", "mine"):
        assert open_pipe(name).source == name.strip()
    assert names == ["mine", "emoji-sd", "mine"]
    with pytest.raises(PermissionError, match="was not named"):
        open_pipe("owner/name")
    assert work.keeper(lambda name: names.append(name))("owner/name").source == names[-1]


def test_a_schedule_that_is_written_opens_and_others_are_refused(sd, dit, loaded, tmp_path):
    schedule = chosen(sd, 0, 4).bound_to(sd.scheduler)
    path = work.written(Loaded("owner/na me", sd), schedule, tmp_path)
    assert path.name == "owner-na-me-2-of-6.json"
    assert work.opened(loaded, path) == schedule
    with pytest.raises(ValueError, match=r"^the schedule is for a UNet2DConditionModel"):
        work.opened(Loaded("dit", dit), path)
    path.write_text(path.read_text().replace('"##', '"#.', 1))
    with pytest.raises(ValueError, match=rf"^{path.name}: ") as raised:
        work.opened(loaded, path)
    assert str(tmp_path) not in str(raised.value)


def test_a_search_ends_with_a_schedule_of_the_budget(sd, loaded):
    settings = secateur.SearchSettings(stages=("stock", "additive"), more_images=0)
    news = list(work.search(loaded, WISH, "a b\nc d", images=2, settings=settings))
    last = [n for n in news if not isinstance(n, work.View)][-1]
    assert work.budget(loaded, last.schedule) == 3
    assert {n.stage for n in news if not isinstance(n, work.View)} == {"stock", "additive"}
    assert news[0].doing == "recording the dense images"
    assert pictures(loaded, schedules=[last.schedule])[-1].variant.name == "found by search"
    with pytest.raises(ValueError, match="found no prompts"):
        list(work.search(loaded, WISH, "\n", images=2, settings=settings))


def test_a_budget_pays_for_its_calls():
    pairs = [(calls, total) for total in range(2, 120) for calls in range(1, total + 1)]
    assert [p for p in pairs if affordable_calls(p[1], keep=work.share(*p)) != p[0]] == []
    assert affordable_calls(3, keep=1 / 3) == 0  # what rounding up is for


def test_captions_are_classes_for_the_zoos_pipe_of_classes():
    labels, captions = secateur.zoo.conditions("emoji-dit", 3)
    assert work.conditions("emoji-dit", list(captions)) == list(labels)
    assert work.conditions("emoji-dit", ["7"]) == work.conditions("other", [" 7 ", ""]) == [7]
    assert work.conditions("emoji-sd", list(captions[:1])) == list(captions[:1])


@pytest.mark.parametrize(
    ("drawn", "base", "says"), [(False, "emoji-sd", "draw pictures first"), (True, "./mine", "give a pipe")]
)
def test_what_nobody_else_could_use_is_not_pushed(sd, drawn, base, says):
    with pytest.raises(ValueError, match=says):
        work.push(chosen(sd, 0, 4) if drawn else None, "me/owl", base=base, private=True)
