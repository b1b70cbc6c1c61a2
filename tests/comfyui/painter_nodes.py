"""The core nodes that the painter runs: what each takes and gives, and what it does, on pictures instead of tensors.

A latent is a picture of the size that it stands for, or none yet. What a sampler makes is a pattern that depends on all
that it was given, so that the same request gives the same picture, and any other another one.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

SAMPLERS = [
    "euler",
    "euler_ancestral",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_3m_sde",
    "dpmpp_sde",
    "ddim",
    "uni_pc",
    "lcm",
]
SCHEDULERS = ["normal", "karras", "simple", "sgm_uniform", "ddim_uniform"]
METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]
FILTERS = dict(zip(METHODS, (0, 2, 4, 3, 1), strict=True))
UPSCALED = 4
"""How many times a model enlarges."""


class NodeFailed(Exception):
    """A node raised an exception of this type."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True)
class Latent:
    """What is to be drawn, or was."""

    size: tuple[int, int]
    image: Image.Image | None = None
    mask: Image.Image | None = None


@dataclass
class Bench:
    """What nodes work with: folders, and the files that they put out by node."""

    folder: Path
    prompt: Mapping[str, Any]
    extra: Mapping[str, Any]
    written: dict[str, dict[str, list[dict[str, str]]]] = field(default_factory=dict)


def classes(files: Mapping[str, list[str]]) -> dict[str, Any]:
    """What `/object_info` says; `files` are the names of models by folder."""
    image, mask, latent, model, clip, vae = (["IMAGE"], ["MASK"], ["LATENT"], ["MODEL"], ["CLIP"], ["VAE"])
    size = ["INT", {"default": 512, "min": 16, "max": 16384, "step": 8}]
    sides = {"width": size, "height": size}
    seed = ["INT", {"default": 0, "min": 0, "max": 2**64 - 1}]
    sampling = {
        "steps": ["INT", {"default": 20, "min": 1, "max": 10000}],
        "cfg": ["FLOAT", {"min": 0.0, "max": 100.0}],
        "sampler_name": [SAMPLERS, {}],
        "scheduler": [SCHEDULERS, {}],
        "positive": ["CONDITIONING"],
        "negative": ["CONDITIONING"],
        "latent_image": latent,
    }
    share = ["FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0}]
    weight = ["FLOAT", {"default": 1.0, "min": -100.0, "max": 100.0}]
    scaled = {"upscale_method": [METHODS, {}], **sides, "crop": [["disabled", "center"], {}]}
    return {
        "CheckpointLoaderSimple": _info(("MODEL", "CLIP", "VAE"), ckpt_name=[files.get("checkpoints", []), {}]),
        "LoraLoader": _info(
            ("MODEL", "CLIP"),
            model=model,
            clip=clip,
            lora_name=[files.get("loras", []), {}],
            strength_model=weight,
            strength_clip=weight,
        ),
        "CLIPTextEncode": _info(("CONDITIONING",), text=["STRING", {"multiline": True}], clip=clip),
        "CLIPSetLastLayer": _info(("CLIP",), clip=clip, stop_at_clip_layer=["INT", {"min": -24, "max": -1}]),
        "RescaleCFG": _info(("MODEL",), model=model, multiplier=share),
        "EmptyLatentImage": _info(("LATENT",), **sides, batch_size=["INT", {"min": 1, "max": 4096}]),
        "KSampler": _info(("LATENT",), model=model, seed=seed, **sampling, denoise=share),
        "VAEDecode": _info(("IMAGE",), samples=latent, vae=vae),
        "VAEDecodeTiled": _info(("IMAGE",), samples=latent, vae=vae, tile_size=["INT", {"min": 64}]),
        "VAEEncode": _info(("LATENT",), pixels=image, vae=vae),
        "SetLatentNoiseMask": _info(("LATENT",), samples=latent, mask=mask),
        "LoadImage": _info(("IMAGE", "MASK"), image=["COMBO", {"image_upload": True}]),
        "LoadImageMask": _info(("MASK",), image=["COMBO", {}], channel=[["alpha", "red", "green", "blue"], {}]),
        "ImageScale": _info(("IMAGE",), image=image, **scaled),
        "UpscaleModelLoader": _info(("UPSCALE_MODEL",), model_name=[files.get("upscale_models", []), {}]),
        "ImageUpscaleWithModel": _info(("IMAGE",), upscale_model=["UPSCALE_MODEL"], image=image),
        "ImageCompositeMasked": _info(
            ("IMAGE",),
            destination=image,
            source=image,
            x=["INT", {}],
            y=["INT", {}],
            resize_source=["BOOLEAN", {}],
        ),
        "EmptyImage": _info(("IMAGE",), **sides, batch_size=["INT", {"min": 1}], color=["INT", {"min": 0}]),
        "SaveImage": _info((), images=image, filename_prefix=["STRING", {"default": "ComfyUI"}])
        | {"output_node": True},
        "PreviewImage": _info((), images=image) | {"output_node": True},
        "Explode": _info(("IMAGE",), image=image),
    }


def _info(outputs: tuple[str, ...], **inputs: Any) -> dict[str, Any]:
    return {"input": {"required": inputs}, "output": list(outputs), "output_node": False, "display_name": ""}


def run(bench: Bench, node: str, class_type: str, inputs: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a node gives, other than a sampler; raises NodeFailed."""
    if class_type in {"SaveImage", "PreviewImage"}:
        return _save(bench, node, class_type, inputs)
    if class_type in {"LoadImage", "LoadImageMask"}:
        return _load(bench, class_type, inputs)
    return _NODES[class_type](inputs)


def sampled(inputs: Mapping[str, Any]) -> Latent:
    """What a sampler makes."""
    latent: Latent = inputs["latent_image"]
    said = {name: value for name, value in inputs.items() if name != "latent_image"}
    drawn = _pattern(json.dumps(said, sort_keys=True, default=str), latent.size)
    if latent.image is not None:
        drawn = Image.blend(latent.image, drawn, float(inputs["denoise"]))
        if latent.mask is not None:
            drawn = Image.composite(drawn, latent.image, latent.mask.resize(latent.size))
    return replace(latent, image=drawn)


def preview(inputs: Mapping[str, Any], done: float) -> bytes:
    """How it looks when so much of it is done."""
    latent: Latent = inputs["latent_image"]
    small = Image.new("RGB", (max(latent.size[0] // 8, 1), max(latent.size[1] // 8, 1)), (int(255 * done), 80, 120))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG")
    return buffer.getvalue()


def _pattern(said: str, size: tuple[int, int]) -> Image.Image:
    digest = hashlib.sha256(said.encode()).digest()
    image = Image.new("RGB", size, tuple(digest[:3]))
    draw = ImageDraw.Draw(image)
    for start in range(3, 27, 6):
        x, y = digest[start] * size[0] // 256, digest[start + 1] * size[1] // 256
        radius = 4 + digest[start + 2] % 16
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(digest[start + 3 : start + 6]))
    return image


def _scale(inputs: Mapping[str, Any]) -> tuple[Image.Image]:
    image, size = inputs["image"], (int(inputs["width"]), int(inputs["height"]))
    if inputs["crop"] == "center":
        ratio = max(size[0] / image.width, size[1] / image.height)
        width, height = size[0] / ratio, size[1] / ratio
        left, top = (image.width - width) / 2, (image.height - height) / 2
        image = image.crop((round(left), round(top), round(left + width), round(top + height)))
    return (image.resize(size, FILTERS[inputs["upscale_method"]]),)


def _compose(inputs: Mapping[str, Any]) -> tuple[Image.Image]:
    below = inputs["destination"].copy()
    mask = inputs.get("mask")
    source = inputs["source"]
    below.paste(source, (inputs["x"], inputs["y"]), None if mask is None else mask.resize(source.size))
    return (below,)


def _explode(inputs: Mapping[str, Any]) -> tuple[Image.Image]:
    del inputs
    raise NodeFailed("RuntimeError", "the fuse in /opt/ComfyUI/custom_nodes/fuse/node.py is wet")


_NODES: dict[str, Callable[[Mapping[str, Any]], tuple[Any, ...]]] = {
    "CheckpointLoaderSimple": lambda given: ((given["ckpt_name"],), (given["ckpt_name"],), given["ckpt_name"]),
    "LoraLoader": lambda given: (
        (*given["model"], given["lora_name"], given["strength_model"]),
        (*given["clip"], given["lora_name"], given["strength_clip"]),
    ),
    "CLIPTextEncode": lambda given: ((given["text"], given["clip"]),),
    "CLIPSetLastLayer": lambda given: ((*given["clip"], given["stop_at_clip_layer"]),),
    "RescaleCFG": lambda given: ((*given["model"], given["multiplier"]),),
    "EmptyLatentImage": lambda given: (Latent((given["width"], given["height"])),),
    "VAEDecode": lambda given: (given["samples"].image,),
    "VAEDecodeTiled": lambda given: (given["samples"].image,),
    "VAEEncode": lambda given: (Latent(given["pixels"].size, given["pixels"]),),
    "SetLatentNoiseMask": lambda given: (replace(given["samples"], mask=given["mask"]),),
    "ImageScale": _scale,
    "UpscaleModelLoader": lambda given: (given["model_name"],),
    "ImageUpscaleWithModel": lambda given: (
        given["image"].resize((given["image"].width * UPSCALED, given["image"].height * UPSCALED)),
    ),
    "ImageCompositeMasked": _compose,
    "EmptyImage": lambda given: (
        Image.new(
            "RGB",
            (given["width"], given["height"]),
            (given["color"] >> 16, given["color"] >> 8 & 255, given["color"] & 255),
        ),
    ),
    "Explode": _explode,
}


def _load(bench: Bench, class_type: str, inputs: Mapping[str, Any]) -> tuple[Any, ...]:
    path = (bench.folder / "input" / inputs["image"]).resolve()
    if not path.is_file() or bench.folder not in path.parents:
        raise NodeFailed("FileNotFoundError", f"[Errno 2] No such file or directory: '{path}'")
    with Image.open(path) as image:
        if class_type == "LoadImageMask":
            return (image.convert("RGB").getchannel(0),)
        return (image.convert("RGB"), Image.new("L", image.size))


def _save(bench: Bench, node: str, class_type: str, inputs: Mapping[str, Any]) -> tuple[Any, ...]:
    place = "output" if class_type == "SaveImage" else "temp"
    prefix = str(inputs.get("filename_prefix", "ComfyUI_temp"))
    folder = (bench.folder / place / prefix).parent.resolve()
    if not folder.is_relative_to(bench.folder / place):
        raise NodeFailed("Exception", f"ERROR: Saving image outside the output folder is not allowed. {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    name = prefix.rpartition("/")[2]
    numbers = [int(path.stem.removeprefix(f"{name}_").strip("_")) for path in folder.glob(f"{name}_*_.png")]
    texts = PngInfo()
    texts.add_text("prompt", json.dumps(bench.prompt))
    if "workflow" in bench.extra.get("extra_pnginfo", {}):
        texts.add_text("workflow", json.dumps(bench.extra["extra_pnginfo"]["workflow"]))
    path = folder / f"{name}_{max(numbers, default=0) + 1:05}_.png"
    inputs["images"].save(path, pnginfo=texts)
    subfolder = str(folder.relative_to(bench.folder / place))
    entry = {"filename": path.name, "subfolder": "" if subfolder == "." else subfolder, "type": place}
    bench.written[node] = {"images": [entry]}
    return ()
