"""The core nodes that the painter runs: what each does, on pictures instead of tensors.

An image is a batch of pictures, a mask one picture of greys. A latent is the pictures that it stands for, or their size
alone. What a sampler makes is a pattern that depends on all that it was given, so that the same request gives the same
picture, and any other another one.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageOps

from tests.comfyui.painter_classes import classes
from tests.comfyui.painter_files import annotated
from tests.comfyui.painter_manners import NodeFailed

__all__ = ["SAMPLING", "Latent", "Video", "classes", "passed_on", "pixels_of", "preview", "run", "sampled", "steps_of"]

SAMPLING = frozenset({"KSampler", "KSamplerAdvanced"})
FILTERS = {
    "nearest-exact": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "area": Image.Resampling.BOX,
    "bicubic": Image.Resampling.BICUBIC,
    "bislerp": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
UPSCALED = 4
"""How many times a model enlarges whose name does not tell."""
FRAMES = 4
"""Frames of a clip that one of its latents stands for."""
GREY = (127, 127, 127)

Images = tuple[Image.Image, ...]
Given = Mapping[str, Any]


@dataclass(frozen=True)
class Latent:
    """What is to be drawn, or was: so many pictures of a size."""

    size: tuple[int, int]
    count: int = 1
    images: Images = ()
    mask: Image.Image | None = None

    def resized(self, size: tuple[int, int], method: str, crop: str = "disabled") -> Latent:
        """The same in another size."""
        size = _even(size)
        return replace(self, size=size, images=tuple(_fitted(each, size, method, crop) for each in self.images))


@dataclass(frozen=True)
class Video:
    """Pictures that are shown so many a second."""

    images: Images
    rate: float


def run(folder: Path, class_type: str, given: Given) -> tuple[Any, ...]:
    """What a node gives that neither samples nor writes files; raises NodeFailed."""
    if class_type in _LOADING:
        return _LOADING[class_type](folder, given)
    return _NODES[class_type](given)


def passed_on(told: Mapping[str, Any], given: Given) -> tuple[Any, ...]:
    """What a class gives of which nothing is known: what it was given of that type, if anything."""
    wanted = {**told["input"].get("required", {}), **told["input"].get("optional", {})}
    by_type = {str(said[0]): given[name] for name, said in reversed(wanted.items()) if name in given}
    return tuple(by_type.get(kind) for kind in told["output"])


def steps_of(given: Given) -> int:
    """How many steps a sampler makes."""
    steps = int(given["steps"])
    if "end_at_step" in given:
        return max(min(int(given["end_at_step"]), steps) - int(given["start_at_step"]), 0)
    return steps if given["denoise"] > 0 else 0


def sampled(given: Given) -> Latent:
    """What a sampler makes: where a mask is, only there; of what was begun with, as much as it leaves."""
    latent: Latent = given["latent_image"]
    if not steps_of(given):
        return latent
    said = {name: value for name, value in given.items() if name != "latent_image"}
    text = json.dumps(said, sort_keys=True, default=str)
    share = given["denoise"] if "denoise" in given else 1 - given["start_at_step"] / given["steps"]
    drawn = []
    for index in range(latent.count):
        image = _pattern(f"{text}#{index}" if index else text, latent.size)
        if latent.images:
            before = latent.images[index]
            image = Image.blend(before, image, float(share))
            if latent.mask is not None:
                image = Image.composite(image, before, latent.mask.resize(latent.size))
        drawn.append(image)
    return replace(latent, images=tuple(drawn))


def preview(given: Given, done: float) -> bytes:
    """How it looks when so much of it is done."""
    width, height = given["latent_image"].size
    small = Image.new("RGB", (max(width // 8, 1), max(height // 8, 1)), (int(255 * done), 80, 120))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG")
    return buffer.getvalue()


def pixels_of(given: Given) -> int:
    """Pixels of the largest picture that a node is given, or is to make."""
    found = [image.size for value in given.values() if isinstance(value, tuple) for image in _pictures(value)]
    found += [value.size for value in given.values() if isinstance(value, Latent)]
    if isinstance(given.get("width"), int) and isinstance(given.get("height"), int):
        found.append((given["width"], given["height"]))
    return max((width * height for width, height in found), default=0)


def _pictures(values: tuple[Any, ...]) -> Iterator[Image.Image]:
    return (each for each in values if isinstance(each, Image.Image))


def _pattern(said: str, size: tuple[int, int]) -> Image.Image:
    digest = hashlib.sha256(said.encode()).digest()
    image = Image.new("RGB", size, tuple(digest[:3]))
    draw = ImageDraw.Draw(image)
    for start in range(3, 27, 6):
        x, y = digest[start] * size[0] // 256, digest[start + 1] * size[1] // 256
        radius = 4 + digest[start + 2] % 16
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(digest[start + 3 : start + 6]))
    return image


def _even(size: tuple[int, int]) -> tuple[int, int]:
    """The size that a latent can stand for: sides are multiples of 8."""
    return max(size[0] // 8 * 8, 8), max(size[1] // 8 * 8, 8)


def _fitted(image: Image.Image, size: tuple[int, int], method: str, crop: str = "disabled") -> Image.Image:
    if crop == "center":
        ratio = max(size[0] / image.width, size[1] / image.height)
        width, height = size[0] / ratio, size[1] / ratio
        left, top = (image.width - width) / 2, (image.height - height) / 2
        image = image.crop((round(left), round(top), round(left + width), round(top + height)))
    return image.resize(size, FILTERS[method])


def _sides(given: Given, size: tuple[int, int]) -> tuple[int, int]:
    """The size that is asked for; a side of 0 follows the other one."""
    width, height = int(given["width"]), int(given["height"])
    if not width and not height:
        return size
    return width or max(round(size[0] * height / size[1]), 1), height or max(round(size[1] * width / size[0]), 1)


def _times(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return round(size[0] * factor), round(size[1] * factor)


def _with_lora(given: Given) -> tuple[Any, ...]:
    weights = (given["strength_model"], given.get("strength_clip", 0.0))
    found = (*given["model"], given["lora_name"], weights[0]) if weights[0] else given["model"]
    if "clip" not in given:
        return (found,)
    return (found, (*given["clip"], given["lora_name"], weights[1]) if weights[1] else given["clip"])


def _empty(given: Given) -> tuple[Latent]:
    return (Latent(_even((given["width"], given["height"])), given["batch_size"]),)


def _decoded(given: Given) -> tuple[Images]:
    latent: Latent = given["samples"]
    return (latent.images or tuple(Image.new("RGB", latent.size, GREY) for _ in range(latent.count)),)


def _encoded(given: Given) -> tuple[Latent]:
    images: Images = given["pixels"]
    size = _even(images[0].size)
    left, top = (images[0].width - size[0]) // 2, (images[0].height - size[1]) // 2
    box = (left, top, left + size[0], top + size[1])
    return (Latent(size, len(images), tuple(each.crop(box) for each in images)),)


def _enlarged(given: Given) -> tuple[Images]:
    found = re.search(r"x(\d)|(\d)x", str(given["upscale_model"]), re.IGNORECASE)
    factor = int(found[1] or found[2]) if found else UPSCALED
    return (tuple(each.resize(_times(each.size, factor)) for each in given["image"]),)


def _composed(given: Given) -> tuple[Images]:
    sources, mask = given["source"], given.get("mask")
    done = []
    for index, below in enumerate(given["destination"]):
        source = sources[index % len(sources)]
        source = source.resize(below.size) if given["resize_source"] else source
        image = below.copy()
        image.paste(source, (given["x"], given["y"]), None if mask is None else mask.resize(source.size))
        done.append(image)
    return (tuple(done),)


def _part(given: Given) -> tuple[Images]:
    images: Images = given["image"]
    start = min(given["batch_index"], len(images) - 1)
    return (images[start : start + given["length"]],)


def _coloured(given: Given) -> tuple[Images]:
    colour = (given["color"] >> 16, given["color"] >> 8 & 255, given["color"] & 255)
    return ((Image.new("RGB", (given["width"], given["height"]), colour),) * given["batch_size"],)


def _exploded(given: Given) -> tuple[Any, ...]:
    del given
    raise NodeFailed("RuntimeError", "the fuse in /opt/ComfyUI/custom_nodes/fuse/node.py is wet")


_NODES: dict[str, Callable[[Given], tuple[Any, ...]]] = {
    "CheckpointLoaderSimple": lambda given: ((given["ckpt_name"],), (given["ckpt_name"],), given["ckpt_name"]),
    "UNETLoader": lambda given: ((given["unet_name"], given["weight_dtype"]),),
    "CLIPLoader": lambda given: ((given["clip_name"], given["type"]),),
    "VAELoader": lambda given: (given["vae_name"],),
    "UpscaleModelLoader": lambda given: (given["model_name"],),
    "LoraLoader": _with_lora,
    "LoraLoaderModelOnly": _with_lora,
    "CLIPTextEncode": lambda given: ((given["text"], given["clip"]),),
    "CLIPSetLastLayer": lambda given: ((*given["clip"], given["stop_at_clip_layer"]),),
    "RescaleCFG": lambda given: ((*given["model"], "rescale", given["multiplier"]),),
    "ModelSamplingSD3": lambda given: ((*given["model"], "shift", given["shift"]),),
    "EmptyLatentImage": _empty,
    "EmptySD3LatentImage": _empty,
    "EmptyHunyuanLatentVideo": lambda given: (
        Latent(
            _even((given["width"], given["height"])),
            ((given["length"] - 1) // FRAMES * FRAMES + 1) * given["batch_size"],
        ),
    ),
    "LatentUpscale": lambda given: (
        given["samples"].resized(_sides(given, given["samples"].size), given["upscale_method"], given["crop"]),
    ),
    "LatentUpscaleBy": lambda given: (
        given["samples"].resized(_times(given["samples"].size, given["scale_by"]), given["upscale_method"]),
    ),
    "SetLatentNoiseMask": lambda given: (replace(given["samples"], mask=given["mask"]),),
    "VAEDecode": _decoded,
    "VAEDecodeTiled": _decoded,
    "VAEEncode": _encoded,
    "ImageScale": lambda given: (
        tuple(
            _fitted(each, _sides(given, each.size), given["upscale_method"], given["crop"]) for each in given["image"]
        ),
    ),
    "ImageScaleBy": lambda given: (
        tuple(_fitted(each, _times(each.size, given["scale_by"]), given["upscale_method"]) for each in given["image"]),
    ),
    "ImageUpscaleWithModel": _enlarged,
    "ImageCompositeMasked": _composed,
    "ImageFromBatch": _part,
    "MaskToImage": lambda given: ((given["mask"].convert("RGB"),),),
    "ImageToMask": lambda given: (_channel(given["image"][0], given["channel"]),),
    "EmptyImage": _coloured,
    "CreateVideo": lambda given: (Video(given["images"], given["fps"]),),
    "Explode": _exploded,
}


def _channel(image: Image.Image, name: str) -> Image.Image:
    """A channel as a mask: white is where alpha is not; nothing where the picture has no such channel."""
    if name == "alpha":
        has = "A" in image.getbands()
        return ImageOps.invert(image.getchannel("A")) if has else Image.new("L", (64, 64))
    return image.convert("RGB").getchannel(name[0].upper())


def _opened(folder: Path, given: Given) -> Image.Image:
    path = annotated(folder, str(given["image"]))
    if path is None:
        raise NodeFailed("FileNotFoundError", f"[Errno 2] No such file or directory: '/opt/ComfyUI/{given['image']}'")
    with Image.open(path) as image:
        if image.mode not in {"RGB", "RGBA"}:
            return image.convert("RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB")
        return image.copy()


def _loaded(folder: Path, given: Given) -> tuple[Any, ...]:
    image = _opened(folder, given)
    return ((image.convert("RGB"),), _channel(image, "alpha"))


_LOADING: dict[str, Callable[[Path, Given], tuple[Any, ...]]] = {
    "LoadImage": _loaded,
    "LoadImageOutput": _loaded,
    "LoadImageMask": lambda folder, given: (_channel(_opened(folder, given), given["channel"]),),
}
