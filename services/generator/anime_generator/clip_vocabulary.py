"""CLIP's vocabulary, as the distribution `open_clip_torch` carries it; that distribution's code is never run.

It is the list of merges that OpenAI published with CLIP; how ids follow from it is in their
https://github.com/openai/CLIP/blob/main/clip/simple_tokenizer.py. Transformers' own files say the same.
"""

from __future__ import annotations

import functools
import gzip
import importlib.util
from pathlib import Path

from anime_generator.engines.protocol import EngineError

DISTRIBUTION = "open_clip_torch"
_MERGES = 49152 - 256 - 2
_MARKS = ("<|startoftext|>", "<|endoftext|>")


@functools.cache
def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Ids by token, and the pairs to merge, first things first; raises EngineError where it is not installed."""
    lines = gzip.decompress(_file().read_bytes()).decode().split("\n")
    merges = [(first, second) for first, second in (line.split() for line in lines[1 : _MERGES + 1])]
    letters = _letters()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges), *_MARKS]
    return {token: number for number, token in enumerate(tokens)}, merges


def _letters() -> list[str]:
    """One printable character for each byte: those that are printable first, then the others from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(0x100 + number) for number in range(256 - len(printable))]


def _file() -> Path:
    package = importlib.util.find_spec("open_clip")  # found, not imported: it would ask for half of PyPI
    folders = package.submodule_search_locations if package is not None else None
    for folder in folders or ():
        if (file := Path(folder) / "bpe_simple_vocab_16e6.txt.gz").is_file():
            return file
    advice = f"pip install --no-deps {DISTRIBUTION} (make setup does it), or name a diffusers folder with config ="
    raise EngineError("model_unusable", f"CLIP's vocabulary is not installed: {advice}")
