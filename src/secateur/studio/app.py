"""The page of `secateur studio`: what is where, and which event asks for what. It alone imports gradio."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import gradio as gr
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse

from secateur import zoo
from secateur.pipeline.progress import View
from secateur.schedule.schedule import Schedule
from secateur.searching.stages import BestSoFar
from secateur.studio import html, work
from secateur.studio.work import Loaded, Wish

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

LOCAL = ("127.0.0.1", "localhost")
NOTE = "No search was made at this budget yet, so that its calls are evenly spread."
Updates = Iterator[dict[Any, Any]]


@dataclass(frozen=True)
class Session:
    """What one visitor has: a pipe's name, schedules for it, the last steps of its searches' stages, and what was drawn."""

    source: str = ""
    schedules: tuple[Schedule, ...] = ()
    steps: tuple[BestSoFar, ...] = ()
    drawn: Schedule | None = None


def components(names: Sequence[str], *, local: bool) -> SimpleNamespace:
    """What events read or change, laid out on the open page. local: whether other pipes than these may be typed."""
    on, more = SimpleNamespace(session=gr.State(Session())), "or type a local folder, or a Hub id" if local else None
    gr.Markdown("## Secateur studio\nOne prompt and one seed: drawn by all calls of the denoiser, and twice by a few.")
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            on.source = gr.Dropdown(list(names), value=names[0], label="Pipe", info=more, allow_custom_value=local)
            on.prompt = gr.Textbox(prompt_for(names[0]), label="Prompt", max_lines=4)
            on.calls = gr.Slider(1, 50, value=10, step=1, label="Budget, in calls", buttons=[])
            with gr.Row():
                on.draw = gr.Button("Draw", variant="primary", size="md", min_width=80)
                on.stop = gr.Button("Stop", size="md", min_width=80)
            with gr.Accordion("Steps, seed, guidance", open=False):
                on.steps = gr.Number(50, label="Steps of all calls", precision=0)
                on.seed = gr.Number(0, label="Seed", precision=0)
                on.guidance = gr.Textbox("", label="Guidance scale", placeholder="the pipe's own")
            with gr.Accordion("Search for a schedule", open=False):
                hint = "one a line, like those that you draw; the zoo's pipes need none"
                on.prompts = gr.Textbox("", label="Calibration prompts", info=hint, lines=3)
                on.images = gr.Slider(1, 64, value=16, step=1, label="Calibration images", buttons=[])
                on.search = gr.Button("Search at this budget", size="md")
            with gr.Accordion("Push to the Hub", open=False, visible=local):
                on.repo = gr.Textbox("", label="Repository", placeholder="owner/name")
                on.private = gr.Checkbox(True, label="Private")
                on.push = gr.Button("Push the schedule", size="md")
        with gr.Column(scale=5, min_width=300):
            on.three, on.said, on.levels = gr.HTML(html.figures([])), gr.HTML(html.said()), gr.HTML()
            with gr.Row():
                on.download = gr.DownloadButton("Download schedule", interactive=False, size="sm")
                on.upload = gr.UploadButton("Load a schedule", file_types=[".json"], size="sm")
            on.stages, on.front = gr.HTML(), gr.HTML()
    return on


def prompt_for(source: str) -> str:
    """A prompt to begin with, if the pipe is of the zoo."""
    return zoo.conditions(source, 1)[1][0] if source in zoo.NAMES else ""


@dataclass(frozen=True)
class Page:
    """What the page's events lead to. on: its components. folder: where what can be downloaded lies."""

    on: SimpleNamespace
    open_pipe: Callable[[str], Loaded]
    folder: Path

    def draw(self, *asked: Any) -> Updates:
        yield from self.job(self.drawing, *asked)

    def move(self, *asked: Any) -> Updates:
        if asked[1].drawn:  # a budget that is chosen before anything was drawn draws nothing
            yield from self.draw(*asked)

    def search(self, *asked: Any) -> Updates:
        yield from self.job(self.searching, *asked)

    def load(self, *asked: Any) -> Updates:
        yield from self.job(self.opening, *asked)

    def push(self, session: Session, repo: str, private: bool) -> str:
        try:
            return html.said(f"Pushed to {work.push(session.drawn, repo, base=session.source, private=private)}")
        except Exception as error:
            return html.fault(error)

    def job(self, then: Callable[..., Updates], source: str, session: Session, *wish: Any) -> Updates:
        """The page's updates while the pipe is loaded, and then those of what it is wanted for."""
        try:
            yield {self.on.said: html.said(f"Loading {source} …")}
            loaded = self.open_pipe(source)
            if session.source != loaded.source:
                session = Session(loaded.source, work.shipped(loaded.source))
            yield from then(loaded, Wish(*wish[:5]), session, *wish[5:])
        except Exception as error:  # whatever a pipe raises is said in the page
            yield {self.on.said: html.fault(error)}

    def drawing(self, loaded: Loaded, wish: Wish, session: Session) -> Updates:
        """The page's updates while three pictures are drawn; in the end their schedule can be downloaded."""
        on, drawn = self.on, list[work.Drawn]()
        for news in work.pictures(loaded, wish, session.schedules):
            if isinstance(news, View):
                yield {on.said: html.progress(news)}
            else:
                drawn.append(news)
                yield {on.three: html.figures(drawn), on.levels: html.schedules(drawn)}
        schedule = drawn[-1].variant.schedule
        assert schedule is not None  # ours always follows one
        file = work.written(loaded, schedule, Path(tempfile.mkdtemp(dir=self.folder)))
        yield {
            on.said: html.said("" if schedule in session.schedules else NOTE),
            on.download: gr.DownloadButton(value=str(file), interactive=True),
            on.session: replace(session, drawn=schedule),
        }

    def searching(self, loaded: Loaded, wish: Wish, session: Session, prompts: str, images: float) -> Updates:
        """The page's updates while a schedule is searched for; in the end pictures are drawn by it."""
        on, last = self.on, dict[str, BestSoFar]()
        for news in work.search(loaded, wish, prompts, images=int(images)):
            if isinstance(news, View):
                yield {on.said: html.progress(news)}
            else:
                last[news.stage] = news
                yield {on.stages: html.stages([*last.values()]), on.front: html.front([*session.steps, *last.values()])}
        steps = [*last.values()]  # a search measures something or refuses
        session = replace(session, schedules=(*session.schedules, steps[-1].schedule), steps=(*session.steps, *steps))
        yield {on.session: session}
        yield from self.drawing(loaded, wish, session)

    def opening(self, loaded: Loaded, wish: Wish, session: Session, file: str) -> Updates:
        """The page's updates when a schedule is loaded: its budget is chosen, and pictures are drawn by it."""
        schedule = work.opened(loaded, file)
        calls, steps = work.budget(loaded, schedule), schedule.made.get("num_inference_steps", schedule.dense_calls)
        session = replace(session, schedules=(*session.schedules, schedule))
        chosen = {self.on.calls: gr.Slider(value=calls, maximum=steps), self.on.steps: steps}
        yield {self.on.session: session, **chosen}
        for update in self.drawing(loaded, replace(wish, calls=calls, steps=steps), session):
            yield update | chosen  # a number that one update of several leaves out is emptied in the page


def connect(page: Page, *, local: bool) -> None:
    """Say which event of the open page leads to what. local: whether the visitor may push by this machine's token."""
    on = page.on
    asked = [on.source, on.session, on.prompt, on.calls, on.steps, on.seed, on.guidance]
    told = [on.said, on.three, on.levels, on.download, on.stages, on.front, on.session]
    # one user at a time, a second one is queued; and nothing can be asked for beside the page
    one: dict[str, Any] = {"concurrency_id": "pipe", "concurrency_limit": 1, "api_visibility": "private"}
    one |= {"show_progress": "minimal", "show_progress_on": on.said}
    jobs = [
        gr.on([on.draw.click, on.prompt.submit], page.draw, asked, told, **one),
        on.calls.release(page.move, asked, told, trigger_mode="always_last", **one),
        on.search.click(page.search, [*asked, on.prompts, on.images], told, **one),
        on.upload.upload(page.load, [*asked, on.upload], [*told, on.calls, on.steps], **one),
    ]
    if local:
        on.push.click(page.push, [on.session, on.repo, on.private], on.said, **one)
    now: dict[str, Any] = {"queue": False, "api_visibility": "private"}
    on.stop.click(None, cancels=jobs, **now).then(lambda: html.said("Stopped."), None, on.said, **now)  # after their last word
    on.source.change(prompt_for, on.source, on.prompt, **now)
    widest = lambda steps: gr.Slider(maximum=steps) if steps and steps > 1 else gr.skip()  # noqa: E731
    on.steps.change(widest, on.steps, on.calls, trigger_mode="always_last", **now)


@dataclass(frozen=True)
class OwnPage:
    """Middleware that refuses what the page of another address asks for: only its owner's browser may load a pipe."""

    app: Any

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else {}
        foreign = "origin" in headers and headers["origin"].partition("://")[2] != headers.get("host")
        await (PlainTextResponse("asked by another page", 403) if foreign else self.app)(scope, receive, send)


@contextmanager
def served(load: Callable[[str], DiffusionPipeline], pipes: Sequence[str], *, host: str, port: int) -> Iterator[str]:
    """The page's address, while it is there.

    load: gives the pipe of a name. pipes: names to choose among besides the zoo's; others can be typed on this machine alone.
    """
    names, local = tuple(dict.fromkeys((*pipes, *reversed(zoo.NAMES)))), host in LOCAL
    open_pipe = work.keeper(load, only=None if local else names)
    hosts = ["*"] if host == "0.0.0.0" else [*LOCAL, host]  # no other name that leads here, as a page elsewhere could have it
    theme = gr.themes.Base(font="system-ui", font_mono="monospace", primary_hue=gr.themes.Color(*html.GREENS.split()))
    with tempfile.TemporaryDirectory(prefix="secateur-studio-") as folder:
        with gr.Blocks(title="Secateur studio", analytics_enabled=False) as blocks:
            connect(Page(components(names, local=local), open_pipe, Path(folder)), local=local)
        blocks.queue(status_update_rate=1, api_open=False).launch(
            server_name=host, server_port=port, share=False, quiet=True, prevent_thread_lock=True, css=html.CSS, theme=theme,
            max_file_size="4mb", footer_links=[], ssr_mode=False, mcp_server=False,
            app_kwargs={"middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=hosts), Middleware(OwnPage)]},
        )  # fmt: skip
        try:
            yield str(blocks.local_url)
        finally:
            blocks.close(verbose=False)
