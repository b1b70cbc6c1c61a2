"""The files of a painter: what may be loaded and shown, what is uploaded, and what its nodes write."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.comfyui.painter_manners import NodeFailed

PLACES = ("output", "input", "temp")
METHODS = {"default": 4, "fastest": 0, "slowest": 6}

Texts = Mapping[str, Any]
Shown = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where the next files of a prefix go; the first one has this number."""

    root: Path
    kind: str
    folder: Path
    name: str
    number: int

    def file(self, index: int, suffix: str) -> tuple[Path, dict[str, str]]:
        """The path of a file, and what is said of it."""
        path = self.folder / f"{self.name}_{self.number + index:05}_.{suffix}"
        subfolder = self.folder.relative_to(self.root).as_posix()
        return path, {"filename": path.name, "subfolder": "" if subfolder == "." else subfolder, "type": self.kind}


def annotated(folder: Path, name: str) -> Path | None:
    """The file that a node loads by this name: of `input` unless it says another place; none when it is not there."""
    said = re.fullmatch(r"(.*) \[(output|input|temp)\]", name)
    root = folder / (said[2] if said else "input")
    path = (root / (said[1] if said else name)).resolve()
    return path if path.is_file() and path.is_relative_to(root) else None


def viewed(folder: Path, query: Mapping[str, str]) -> Path | int:
    """The file that is asked for, or the status that the server answers with instead."""
    name, kind = query.get("filename", ""), query.get("type", "output")
    if not name:
        return 404
    if name.startswith("/") or ".." in name or kind not in PLACES:
        return 400
    root = folder / kind
    within = (root / query.get("subfolder", "")).resolve()
    if not within.is_relative_to(root):
        return 403
    path = within / Path(name).name
    return path if path.is_file() else 404


def stored(folder: Path, form: Mapping[str, Any], name: str, data: bytes) -> dict[str, str] | None:
    """Keep a picture that is uploaded, under a name of its own unless told to overwrite; none when it may not be."""
    kind, subfolder = str(form.get("type", "input")), str(form.get("subfolder", ""))
    root = folder / (kind if kind in PLACES else "input")
    within = (root / subfolder).resolve()
    if not within.is_relative_to(root) or not name:
        return None
    within.mkdir(parents=True, exist_ok=True)
    path, number = within / Path(name).name, 0
    while form.get("overwrite") not in {"true", "1"} and path.exists() and path.read_bytes() != data:
        number += 1
        path = path.with_name(f"{Path(name).stem} ({number}){path.suffix}")
    path.write_bytes(data)
    return {"name": path.name, "subfolder": subfolder, "type": root.name}


def placed(folder: Path, kind: str, prefix: str, size: tuple[int, int]) -> Place:
    """Where files of a prefix go; raises NodeFailed outside of the folder of its kind."""
    root = folder / kind
    prefix = prefix.replace("%width%", str(size[0])).replace("%height%", str(size[1]))
    path = (root / prefix).parent.resolve()
    if not path.is_relative_to(root):
        raise NodeFailed("Exception", f"**** ERROR: Saving image outside the output folder is not allowed.\n {path}")
    path.mkdir(parents=True, exist_ok=True)
    name = prefix.rpartition("/")[2]
    ours = re.compile(rf"{re.escape(name)}_(\d+)_")
    numbers = [int(found[1]) for each in path.iterdir() if (found := ours.match(each.name))]
    return Place(root, kind, path, name, max(numbers, default=0) + 1)


def save(folder: Path, class_type: str, given: Mapping[str, Any], texts: Texts) -> Shown:
    """Run a node that writes files; what it shows of them. `texts` go into the files."""
    return _SAVING[class_type](folder, given, texts)


def _save_images(folder: Path, given: Mapping[str, Any], texts: Texts) -> Shown:
    preview = "filename_prefix" not in given
    letters = "".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=5))
    prefix = f"ComfyUI_temp_{letters}" if preview else given["filename_prefix"]
    place = placed(folder, "temp" if preview else "output", prefix, given["images"][0].size)
    info = PngInfo()
    for name, value in texts.items():
        info.add_text(name, json.dumps(value))
    told = []
    for index, image in enumerate(given["images"]):
        path, said = place.file(index, "png")
        image.save(path, pnginfo=info, compress_level=1)
        told.append(said)
    return {"images": told}


def _save_webp(folder: Path, given: Mapping[str, Any], texts: Texts) -> Shown:
    images = given["images"]
    path, said = placed(folder, "output", given["filename_prefix"], images[0].size).file(0, "webp")
    exif = images[0].getexif()
    for tag, (name, value) in zip(range(0x110, 0, -1), texts.items(), strict=False):
        exif[tag] = f"{name}:{json.dumps(value)}"
    how = {"lossless": given["lossless"], "quality": given["quality"], "method": METHODS[given["method"]]}
    time = int(1000 / given["fps"])
    images[0].save(path, save_all=True, append_images=images[1:], duration=time, exif=exif, **how)
    return {"images": [said], "animated": [len(images) != 1]}


def _save_video(folder: Path, given: Mapping[str, Any], texts: Texts) -> Shown:
    import av  # a process that draws no clips need not have it

    video = given["video"]
    size: tuple[int, int] = video.images[0].size
    path, said = placed(folder, "output", given["filename_prefix"], size).file(0, "mp4")
    with av.open(str(path), "w", format="mp4", options={"movflags": "use_metadata_tags"}) as file:
        for name, value in texts.items():
            file.metadata[name] = json.dumps(value)
        stream: Any = file.add_stream("libx264", rate=Fraction(video.rate).limit_denominator(1000))
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        frame_of: Callable[[Image.Image], Any] = av.VideoFrame.from_image
        for image in video.images:
            file.mux(stream.encode(frame_of(image)))
        file.mux(stream.encode(None))
    return {"images": [said], "animated": [True]}


_SAVING: dict[str, Callable[[Path, Mapping[str, Any], Texts], Shown]] = {
    "SaveImage": _save_images,
    "PreviewImage": _save_images,
    "SaveAnimatedWEBP": _save_webp,
    "SaveVideo": _save_video,
}
SAVING = frozenset(_SAVING)
