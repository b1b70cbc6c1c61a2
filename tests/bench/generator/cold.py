"""One picture by one process: libraries are imported, the model is loaded, drawn with once, and all is thrown away.

A program of its own that knows torch and diffusers alone. It takes its orders as JSON, and prints the seconds of each
part as JSON.
"""

import json
import sys
import time
from typing import Any


def main(order: dict[str, Any]) -> None:
    """Draw what is asked for into the file `out`."""
    at = [time.perf_counter()]
    import diffusers
    import torch

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    at.append(time.perf_counter())
    pipe = load(order, getattr(torch, order["precision"]))
    scheduler = getattr(diffusers, order["scheduler"])
    pipe.scheduler = scheduler.from_config(order["configuration"])
    pipe.set_progress_bar_config(disable=True)
    pipe.to(order["device"])
    at.append(time.perf_counter())
    image = pipe(**order["arguments"], generator=torch.Generator("cpu").manual_seed(order["seed"])).images[0]
    image.save(order["out"], "PNG", compress_level=order["compression"])
    at.append(time.perf_counter())
    names = ("import", "load", "draw")
    print(json.dumps({name: after - before for name, before, after in zip(names, at, at[1:], strict=False)}))


def load(order: dict[str, Any], dtype: Any) -> Any:
    """The pipeline of a diffusers folder or of a single file."""
    import diffusers
    import transformers

    transformers.utils.logging.disable_progress_bar()
    pipeline = getattr(diffusers, order["pipeline"])
    parts: dict[str, Any] = {
        name: transformers.CLIPTokenizer.from_pretrained(folder) for name, folder in order["tokenizers"].items()
    }
    if order["pipeline"] == "StableDiffusionPipeline":
        parts |= {"safety_checker": None, "feature_extractor": None}
    if order["vae"]:
        kind, options = diffusers.AutoencoderKL, {"torch_dtype": dtype, "local_files_only": True}
        if order["vae"].endswith(".safetensors"):
            options |= {"config": order["config"] or order["source"], "subfolder": "vae"}
            parts["vae"] = kind.from_single_file(order["vae"], **options)
        else:
            parts["vae"] = kind.from_pretrained(order["vae"], **options)
    if order["config"]:
        return pipeline.from_single_file(
            order["source"], config=order["config"], torch_dtype=dtype, local_files_only=True, **parts
        )
    return pipeline.from_pretrained(
        order["source"], torch_dtype=dtype, use_safetensors=True, local_files_only=True, **parts
    )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
