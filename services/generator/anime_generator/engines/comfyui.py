"""Draws on a ComfyUI server: every picture is one prompt there, found again by its id whatever happens on our side.

The server holds the models, and decides by itself when to load which; what we load and unload here is its name.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

import structlog
from PIL import Image, UnidentifiedImageError

from anime_common.contracts.vocabulary import NodeCost
from anime_generator.comfyui import conversation, faults, records
from anime_generator.comfyui.binding import UPSCALERS, Files, Shot, bind
from anime_generator.comfyui.choosing import choose
from anime_generator.comfyui.conversation import Conversation, Done, Order
from anime_generator.comfyui.manifest import Workflow, load_workflows
from anime_generator.comfyui.marks import Mark, extra_of, prompt_id_of
from anime_generator.comfyui.outputs import FOLDER, files_of, prefix_of
from anime_generator.comfyui.server import Refused, Server, TooLarge, Unreachable
from anime_generator.comfyui.shelf import UPSCALE_MODELS, upscalers_for
from anime_generator.comfyui.tracking import Cost, InPhase, Shown, Step, Told
from anime_generator.engines.canvases import Canvas, cut_off, opaque
from anime_generator.engines.protocol import (
    NO_INPUTS,
    OUT_OF_MEMORY,
    USUAL,
    Cancelled,
    Costed,
    EngineError,
    PhaseBegan,
    Previewed,
    Rendered,
    Stepped,
    Waited,
    Warned,
    plan_passes,
)

if TYPE_CHECKING:
    from anime_common.contracts.generation import Settings
    from anime_common.contracts.generator import OfferedJob
    from anime_common.contracts.vocabulary import ModelInfo
    from anime_generator.comfyui.servers import Remote
    from anime_generator.device import Device
    from anime_generator.engines.protocol import Cancel, EngineOptions, Inputs, Manner, OnProgress, Picture
    from anime_generator.registry import ModelSpec

log = structlog.get_logger(__name__)

LARGEST_FILE = 256 << 20
"""Bytes of a file that a workflow writes."""
VIEW_TRIES = 3
"""How often a file is asked for that the server says it has."""
PAUSE = 0.5
"""Seconds between two questions to a server that is away."""
JPEG_QUALITY = 80
_LARGEST_PREVIEW = 1 << 24
_STILL = (".png", ".jpg", ".jpeg", ".webp")

T = TypeVar("T")


class ComfyuiEngine:
    """See the module's text."""

    def __init__(self, device: Device, options: EngineOptions) -> None:
        if options.remote is None:
            raise ValueError("this engine needs a server")
        del device  # the server's own
        self._server = Server(options.remote.url, options.remote.headers)
        self._link = _Link(options.remote, self._server, options, Counter())
        self._named: set[str] = set()

    def describe(self, spec: ModelSpec) -> ModelInfo:
        """What the server can do with a model stands in its spec."""
        return spec.info(spec.samplers)

    def load(self, spec: ModelSpec, *, warm_up: bool = False) -> int:
        """Note its name: the server loads it when a prompt wants it, and alone knows what it takes (0)."""
        del warm_up
        self._named.add(spec.key)
        return 0

    def offload(self, key: str) -> bool:
        """Never: the server keeps what it has no room for where it likes."""
        del key
        return False

    def unload(self, key: str) -> None:
        """Have the server drop what it holds in memory, unless it is drawing for somebody."""
        if key not in self._named:
            return
        self._named.discard(key)
        try:
            if records.waiting(self._server.queue()):
                log.info("comfyui_not_freed", reason="prompts wait or run")
                return
            self._server.free()
        except (Unreachable, Refused, TooLarge) as error:
            log.warning("comfyui_not_freed", reason=str(error))

    def close(self) -> None:
        """Let go of the connections."""
        self._server.close()

    def generate(
        self,
        spec: ModelSpec,
        requests: Sequence[OfferedJob],
        on_progress: OnProgress,
        cancel: Cancel,
        manner: Manner = USUAL,
        inputs: Inputs = NO_INPUTS,
    ) -> None:
        """Draw the pictures one after another, or go on with those that the server is drawing already."""
        workflows, _ = load_workflows(self._link.remote.workflows)
        for request in requests:
            workflow = choose(workflows, spec.workflow, request.settings, self._link.remote)
            run = _Run(self._link, spec, workflow, request, on_progress, cancel, manner, inputs)
            try:
                run.draw()
            except Cancelled:
                continue


@dataclass(frozen=True, slots=True)
class _Link:
    """The server, and what is known of how to draw there. `short` counts how often memory was short for a picture
    (attempt, index): another try of it is another prompt.
    """

    remote: Remote
    server: Server
    options: EngineOptions
    short: Counter[tuple[UUID, int]]


@dataclass(slots=True)
class _Run:
    """The pictures of one request."""

    link: _Link
    spec: ModelSpec
    workflow: Workflow
    request: OfferedJob
    tell: OnProgress
    cancel: Cancel
    manner: Manner
    inputs: Inputs

    def draw(self) -> None:
        """Draw what is not done; raises EngineError, and Cancelled."""
        files: Files | None = None
        for (picture,) in plan_passes([self.request], 1, self.manner):
            if not self._wanted():
                raise Cancelled
            files = files or self._files()
            self._draw(picture, files)

    def _draw(self, picture: Picture, files: Files) -> None:
        key = (picture.attempt_id, picture.index)
        prefix = prefix_of(picture.attempt_id, picture.index)
        shot = Shot(picture.seed, prefix, self._final_size(), self.manner.economical)
        graph = bind(self.workflow, self.request.settings, shot, files)
        prompt_id = prompt_id_of(picture.attempt_id, picture.index, self.link.short[key])
        order = Order(prompt_id, graph, self._extra(picture))
        hearing = _Hearing(self, picture)
        patience = conversation.Patience(unreachable=self.link.remote.unreachable, stalled=self.link.remote.stalled)
        talk = Conversation(self.link.server, order, patience, hearing.hear, self._wanted, self._looked)
        try:
            done = talk.run()
        except EngineError as error:
            self._tell_costs(picture, talk.costs())
            if error.code == OUT_OF_MEMORY:
                self.link.short[key] += 1
            raise
        self._tell_costs(picture, done.costs)
        self._hand_over(picture, done, prefix)
        self.link.short.pop(key, None)

    def _tell_costs(self, picture: Picture, costs: tuple[Cost, ...]) -> None:
        self.tell(Costed(picture, self.workflow.name, tuple(_cost(each) for each in costs)))

    def _hand_over(self, picture: Picture, done: Done, prefix: str) -> None:
        """Fetch the file of a picture. Of several, it is the last that is no picture, or else the last of all."""
        files = files_of(done.prompt, self.workflow.outputs, prefix)
        chosen = files[-1]
        if len(files) > 1:
            moving = [file for file in files if not file.name.lower().endswith(_STILL)]
            chosen = (moving or files)[-1]
            left = f"{len(files) - 1} more of its files stay on the server"
            self.tell(Warned(picture.attempt_id, f"the workflow {self.workflow.name} wrote several files: {left}"))
        data = self._fetch(chosen)
        self.tell(Rendered(picture, data))

    def _fetch(self, file: records.File) -> bytes:
        for left in reversed(range(VIEW_TRIES)):
            try:
                return self._patiently(lambda: self.link.server.view(file, LARGEST_FILE))
            except Refused as refused:
                text = f"the ComfyUI server does not hand out {file.name!r}, which it says it wrote"
                if not left:
                    raise EngineError(faults.OUTPUT_MISSING, f"{text} (HTTP {refused.status})") from refused
                time.sleep(PAUSE)
            except TooLarge as error:
                text = f"the file {file.name!r} is too large: {error}"
                raise EngineError(faults.OUTPUT_TOO_LARGE, text) from error
        raise AssertionError("the last try returns or raises")

    def _files(self) -> Files:
        """What the server calls what this request needs; its pictures are brought there."""
        settings = self.request.settings
        wanted = {each.upscaler for each in (settings.hires, settings.upscale) if each is not None}
        upscalers: dict[str, str] = {}
        if wanted - UPSCALERS.keys():
            upscalers = upscalers_for(self._patiently(lambda: self.link.server.models(UPSCALE_MODELS)))
        return Files(
            model=None if self.spec.workflow else str(self.spec.source),
            loras={lora.key: str(lora.source) for lora in self.spec.loras},
            upscalers=upscalers,
            pictures={name: self._upload(image) for name, image in self._pictures(settings).items()},
            family=self.spec.family,
        )

    def _pictures(self, settings: Settings) -> dict[str, Image.Image]:
        """The pictures that the request begins with, as other engines would bring them to size."""
        if settings.init_image is None:
            return {}
        picture = self._input("init_image", settings.init_image)
        if not settings.sampled():
            return {"init_image": opaque(picture)}
        mask = self._input("mask", settings.mask) if settings.mask is not None else None
        size = (settings.width, settings.height)
        if (cut := cut_off(picture, size)) is not None:
            self.tell(Warned(self.request.attempt_id, cut))
        canvas = Canvas.of(picture, mask, size)
        covers = {} if canvas.cover is None else {"mask": canvas.cover}
        return {"init_image": canvas.ground, **covers}

    def _input(self, name: str, file_id: UUID) -> Image.Image:
        try:
            return self.inputs[file_id]
        except KeyError:
            raise EngineError("input_unavailable", f"{name}: the file {file_id} did not come") from None

    def _upload(self, image: Image.Image) -> str:
        """Bring a picture to the server, under a name that says what is in it: the same one is there once."""
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=1)
        data = buffer.getvalue()
        name = f"{hashlib.sha256(data).hexdigest()[:32]}.png"
        try:
            return self._patiently(lambda: self.link.server.upload(name, data, "image/png", FOLDER))
        except Refused as refused:
            text = f"the ComfyUI server takes no pictures (HTTP {refused.status})"
            raise EngineError(faults.UPLOAD_REFUSED, text) from refused

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Ask again while the server is away, as long as the picture is wanted; what it refuses is raised."""
        until = time.monotonic() + self.link.remote.unreachable
        while True:
            try:
                return ask()
            except Unreachable as error:
                if not self._wanted():
                    raise Cancelled from error
                if time.monotonic() > until:
                    text = f"the ComfyUI server does not answer: {faults.clean(str(error))}"
                    raise EngineError(faults.UNREACHABLE, text) from error
            except Refused as refused:
                if refused.status in {401, 403}:
                    raise faults.locked_out(refused.status) from refused
                raise
            self.tell(Waited())
            time.sleep(PAUSE)

    def _extra(self, picture: Picture) -> dict[str, object]:
        offer = self.manner.offer
        if offer is None:
            return {}
        job = self.request
        return extra_of(
            Mark(worker=offer.worker, offer_id=offer.offer_id, epoch=offer.epoch, index=picture.index, job=job)
        )

    def _final_size(self) -> tuple[int, int]:
        """Width and height that pictures have in the end."""
        settings = self.request.settings
        if settings.sampled() or settings.init_image is None or settings.upscale is None:
            return settings.final_size()
        image = self._input("init_image", settings.init_image)
        width, height = (round(side * settings.upscale.factor) for side in image.size)
        return width, height

    def _looked(self, ahead: int | None) -> None:
        """The conversation's callback: the server was asked; `ahead` are the prompts that run before ours."""
        del ahead
        self.tell(Waited())

    def _wanted(self) -> bool:
        return not self.cancel.asked(self.request.attempt_id)


def _cost(cost: Cost) -> NodeCost:
    node = cost.node
    return NodeCost(node=node.id, title=node.title, kind=node.work, seconds=round(cost.seconds, 4), cached=cost.cached)


@dataclass(slots=True)
class _Hearing:
    """Tells of one picture what is heard of its prompt. `shown_at` is the step of its last preview."""

    run: _Run
    picture: Picture
    step: int = 0
    steps: int = 0
    shown_at: int = 0

    def hear(self, told: Told) -> None:
        """The conversation's callback."""
        if isinstance(told, InPhase):
            self.run.tell(PhaseBegan(told.phase, (self.picture,)))
        elif isinstance(told, Step):
            self.step, self.steps = told.step, told.steps
            self.run.tell(Stepped((self.picture,), told.step, told.steps))
        elif isinstance(told, Shown):
            self._show(told.image.data)

    def _show(self, data: bytes) -> None:
        """Pass a preview on, of the first step and then of every so many."""
        every = self.run.link.options.preview_every
        if self.step >= self.steps > 0 or (self.shown_at and self.step - self.shown_at < every):
            return
        jpeg = as_jpeg(data, self.run.link.options.preview_size)
        if jpeg is not None:
            self.shown_at = max(self.step, 1)
            self.run.tell(Previewed(self.picture, jpeg))


def as_jpeg(data: bytes, longest: int) -> bytes | None:
    """A preview as a JPEG whose longer side has at most so many pixels; None when it is no picture."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
            if image.width * image.height > _LARGEST_PREVIEW:
                return None
            small = image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return None
    small.thumbnail((longest, longest))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
