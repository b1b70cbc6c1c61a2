"""What the painter says of its node classes, in the form of `/object_info`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SAMPLERS = [
    *("euler", "euler_cfg_pp", "euler_ancestral", "heun", "dpm_2", "dpm_2_ancestral", "lms", "dpmpp_2s_ancestral"),
    *("dpmpp_sde", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m_sde", "ddpm", "lcm", "res_multistep", "ddim", "uni_pc"),
    "uni_pc_bh2",
]
SCHEDULERS = ["simple", "sgm_uniform", "karras", "exponential", "ddim_uniform", "beta", "normal", "kl_optimal"]
METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]
LATENT_METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "bislerp"]
FOLDERS = (
    *("checkpoints", "configs", "loras", "vae", "text_encoders", "diffusion_models", "clip_vision", "style_models"),
    *("embeddings", "diffusers", "vae_approx", "controlnet", "gligen", "upscale_models", "custom_nodes"),
    *("hypernetworks", "photomaker", "classifiers", "model_patches", "audio_encoders"),
)
"""Folders of models that a server has."""
INPUT = "input"
"""Under this name pictures that can be loaded are given to `classes`."""

IMAGE, MASK, LATENT, MODEL, CLIP, VAE = (["IMAGE"], ["MASK"], ["LATENT"], ["MODEL"], ["CLIP"], ["VAE"])
Files = Mapping[str, Sequence[str]]
Inputs = dict[str, list[Any]]


def classes(files: Files) -> dict[str, Any]:
    """Every class that it runs; `files` are the names of models by folder."""
    return _loaders(files) | _conditions() | _latents() | _images(files) | _outputs()


def _loaders(files: Files) -> dict[str, Any]:
    dtypes = ["default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"]
    kinds = ["stable_diffusion", "sd3", "hunyuan_video", "wan", "qwen_image", "lumina2"]
    lora = {"lora_name": _choice(files.get("loras", ())), "strength_model": _float(1.0, -100.0, 100.0)}
    return _all(
        _info("CheckpointLoaderSimple", "MODEL CLIP VAE", {"ckpt_name": _choice(files.get("checkpoints", ()))}),
        _info(
            "LoraLoader", "MODEL CLIP", {"model": MODEL, "clip": CLIP, **lora, "strength_clip": lora["strength_model"]}
        ),
        _info("LoraLoaderModelOnly", "MODEL", {"model": MODEL, **lora}),
        _info(
            "UNETLoader",
            "MODEL",
            {"unet_name": _choice(files.get("diffusion_models", ())), "weight_dtype": _choice(dtypes)},
        ),
        _info(
            "CLIPLoader",
            "CLIP",
            {"clip_name": _choice(files.get("text_encoders", ())), "type": _choice(kinds)},
            {"device": _choice(("default", "cpu"))},
        ),
        _info("VAELoader", "VAE", {"vae_name": _choice(files.get("vae", ()))}),
        _info("UpscaleModelLoader", "UPSCALE_MODEL", {"model_name": _choice(files.get("upscale_models", ()))}),
    )


def _conditions() -> dict[str, Any]:
    return _all(
        _info("CLIPTextEncode", "CONDITIONING", {"text": ["STRING", {"multiline": True}], "clip": CLIP}),
        _info("CLIPSetLastLayer", "CLIP", {"clip": CLIP, "stop_at_clip_layer": _int(-1, -24, -1)}),
        _info("RescaleCFG", "MODEL", {"model": MODEL, "multiplier": _float(0.7, 0.0, 1.0)}),
        _info("ModelSamplingSD3", "MODEL", {"model": MODEL, "shift": _float(3.0, 0.0, 100.0)}),
    )


def _latents() -> dict[str, Any]:
    seed = ["INT", {"default": 0, "min": 0, "max": 2**64 - 1, "control_after_generate": True}]
    sampling = {
        "steps": _int(20, 1, 10000),
        "cfg": _float(8.0, 0.0, 100.0),
        "sampler_name": _choice(SAMPLERS),
        "scheduler": _choice(SCHEDULERS),
        "positive": ["CONDITIONING"],
        "negative": ["CONDITIONING"],
        "latent_image": LATENT,
    }
    switch = _choice(("enable", "disable"))
    advanced = {"add_noise": switch, "noise_seed": seed, **sampling}
    advanced |= {"start_at_step": _int(0, 0, 10000), "end_at_step": _int(10000, 0, 10000)}
    tile = {"tile_size": _int(512, 64, 4096, 32), "overlap": _int(64, 0, 4096, 32)}
    tile |= {"temporal_size": _int(64, 8, 4096, 4), "temporal_overlap": _int(8, 4, 4096, 4)}
    method = _choice(LATENT_METHODS)
    sides, film = _sides(16, 8), _sides(16, 16)
    scaled = {"samples": LATENT, "upscale_method": method, **_sides(0, 8), "crop": _choice(("disabled", "center"))}
    return _all(
        _info("EmptyLatentImage", "LATENT", {**sides, "batch_size": _int(1, 1, 4096)}),
        _info("EmptySD3LatentImage", "LATENT", {**_sides(16, 16), "batch_size": _int(1, 1, 4096)}),
        _info("EmptyHunyuanLatentVideo", "LATENT", {**film, "length": _int(25, 1, 16384, 4), "batch_size": _int(1, 1)}),
        _info("KSampler", "LATENT", {"model": MODEL, "seed": seed, **sampling, "denoise": _float(1.0, 0.0, 1.0)}),
        _info("KSamplerAdvanced", "LATENT", {"model": MODEL, **advanced, "return_with_leftover_noise": switch}),
        _info("LatentUpscale", "LATENT", scaled),
        _info(
            "LatentUpscaleBy",
            "LATENT",
            {"samples": LATENT, "upscale_method": method, "scale_by": _float(1.5, 0.01, 8.0)},
        ),
        _info("SetLatentNoiseMask", "LATENT", {"samples": LATENT, "mask": MASK}),
        _info("VAEEncode", "LATENT", {"pixels": IMAGE, "vae": VAE}),
        _info("VAEDecode", "IMAGE", {"samples": LATENT, "vae": VAE}),
        _info("VAEDecodeTiled", "IMAGE", {"samples": LATENT, "vae": VAE, **tile}),
    )


def _images(files: Files) -> dict[str, Any]:
    there = _choice(files.get(INPUT, ()), image_upload=True)
    method = _choice(METHODS)
    place: Inputs = {"x": _int(0, 0, 16384), "y": _int(0, 0, 16384), "resize_source": ["BOOLEAN", {"default": False}]}
    scaled = {"image": IMAGE, "upscale_method": method, **_sides(0, 1), "crop": _choice(("disabled", "center"))}
    part = {"image": IMAGE, "batch_index": _int(0, 0, 4095), "length": _int(1, 1, 4096)}
    colour = ["INT", {"default": 0, "min": 0, "max": 0xFFFFFF, "step": 1, "display": "color"}]
    return _all(
        _info("LoadImage", "IMAGE MASK", {"image": there}),
        _info("LoadImageMask", "MASK", {"image": there, "channel": _choice(("alpha", "red", "green", "blue"))}),
        _info("LoadImageOutput", "IMAGE MASK", {"image": ["COMBO", {"image_upload": True, "image_folder": "output"}]}),
        _info("ImageScale", "IMAGE", scaled),
        _info("ImageScaleBy", "IMAGE", {"image": IMAGE, "upscale_method": method, "scale_by": _float(1.0, 0.01, 8.0)}),
        _info("ImageUpscaleWithModel", "IMAGE", {"upscale_model": ["UPSCALE_MODEL"], "image": IMAGE}),
        _info("ImageCompositeMasked", "IMAGE", {"destination": IMAGE, "source": IMAGE, **place}, {"mask": MASK}),
        _info("ImageFromBatch", "IMAGE", part),
        _info("MaskToImage", "IMAGE", {"mask": MASK}),
        _info("ImageToMask", "MASK", {"image": IMAGE, "channel": _choice(("red", "green", "blue", "alpha"))}),
        _info("EmptyImage", "IMAGE", {**_sides(1, 1), "batch_size": _int(1, 1, 4096), "color": colour}),
        _info("CreateVideo", "VIDEO", {"images": IMAGE, "fps": _float(30.0, 1.0, 120.0)}, {"audio": ["AUDIO"]}),
        _info("Explode", "IMAGE", {"image": IMAGE}),
    )


def _outputs() -> dict[str, Any]:
    prefix = ["STRING", {"default": "ComfyUI"}]
    moving: Inputs = {"images": IMAGE, "filename_prefix": prefix, "fps": _float(6.0, 0.01, 1000.0)}
    moving |= {"lossless": ["BOOLEAN", {"default": True}], "quality": _int(80, 0, 100)}
    video: Inputs = {"video": ["VIDEO"], "filename_prefix": ["STRING", {"default": "video/ComfyUI"}]}
    video |= {"format": _combo("auto", "mp4"), "codec": _combo("auto", "h264")}
    found = _all(
        _info("SaveImage", "", {"images": IMAGE, "filename_prefix": prefix}),
        _info("PreviewImage", "", {"images": IMAGE}),
        _info("SaveAnimatedWEBP", "", {**moving, "method": _choice(("default", "fastest", "slowest"))}),
        _info("SaveVideo", "", video),
    )
    return {name: each | {"output_node": True} for name, each in found.items()}


def _all(*found: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each for each in found}


def _info(name: str, gives: str, required: Inputs, optional: Inputs | None = None) -> dict[str, Any]:
    outputs = gives.split()
    inputs = {"required": required} | ({"optional": optional} if optional else {})
    return {
        "input": inputs,
        "input_order": {part: list(each) for part, each in inputs.items()},
        "output": outputs,
        "output_is_list": [False] * len(outputs),
        "output_name": outputs,
        "name": name,
        "display_name": name,
        "description": "",
        "python_module": "nodes",
        "category": "painting",
        "output_node": False,
    }


def _int(usual: int, least: int, most: int = 4096, step: int = 1) -> list[Any]:
    return ["INT", {"default": usual, "min": least, "max": most, "step": step}]


def _float(usual: float, least: float, most: float) -> list[Any]:
    return ["FLOAT", {"default": usual, "min": least, "max": most, "step": 0.01}]


def _choice(among: Sequence[str], **more: Any) -> list[Any]:
    return [list(among), more]


def _combo(*among: str) -> list[Any]:
    """As classes of the newer kind say it."""
    return ["COMBO", {"multiselect": False, "options": list(among)}]


def _sides(least: int, step: int) -> Inputs:
    return {"width": _int(512, least, 16384, step), "height": _int(512, least, 16384, step)}
