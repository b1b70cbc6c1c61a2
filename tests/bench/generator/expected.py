"""What stands in the overview: which number of which part, its goal, and what is expected of it on a card of 12 GB.

The expectations are arithmetic on published rates and sizes, not measurements. They are for Stable Diffusion 1.5 in
half precision, 512 x 512, 20 steps, on a card such as the RTX 3060 with 12 GB.
"""

from __future__ import annotations

from dataclasses import dataclass

_RATE = """\
RTX 3060 with 12 GB, Stable Diffusion 1.5, 512 × 512, half precision: 6 to 8 steps a second
(https://smeltcore.com/recipes/sd1-5-rtx-3060/)."""
_BATCHES = """\
What batches gain: diffusers' own tables, torch 2.0 without compiling. RTX 3090: 22.56 steps a second for one picture,
6.46 for four at once, 1.70 for sixteen, which is 1.15 and 1.21 times as many pictures; T4: 6.90 and 1.79, 1.04 times as
many (docs/source/en/optimization/torch2.0.mdx of https://github.com/huggingface/diffusers)."""
_COPIES = """\
The half-precision checkpoint has 2.1 GB. Pinned memory was copied at 11 GB/s over PCIe 3.0 × 16 (a reader of
https://forums.developer.nvidia.com/t/how-to-optimize-data-transfers-in-cuda-c-c/148400 measured it); PCIe 4.0 has twice
the bandwidth. That pinning new pages takes as long again or more is an assumption."""
_PROCESSOR = """\
This page: what only the processor does (imports, messages, PNGs) takes as long beside a card as without one."""
SOURCES = (_RATE, _BATCHES, _COPIES, _PROCESSOR)


@dataclass(frozen=True, slots=True)
class Metric:
    """A number `key` of a part, for people: what it is, its unit and goal; what is expected on a card, and why.

    `goal` is an upper limit. `wall` is whether the number is one of wall time, which other programs distort.
    """

    part: str
    key: str
    what: str
    unit: str
    expected: str = ""
    because: str = ""
    goal: float | None = None
    wall: bool = False


_COLD = (
    Metric(
        "cold", "cold s", "a process a picture, start to end", "s",
        "10 to 16 s", "imports as here, context 1, load 2 to 5, draw 3 to 4 [1, 3, 4]",
    ),
    Metric(
        "cold", "resident s", "the engine that stays, the same picture", "s",
        "3 to 4 s", "20 steps at 6 to 8 a second, decoding, PNG [1]",
    ),
    Metric("cold", "times as quick", "the engine is quicker, wall", "×", "3 to 5 ×", "the two rows above"),
    Metric("cold", "times as quick, CPU", "the engine is quicker, processor time", "×"),
)  # fmt: skip
_OVERHEAD = (
    Metric(
        "overhead", "overhead %", "over a bare pipeline call, like with like, wall", "%",
        "under 1 %", "some ms of messages and PNG in 3 s [4]", goal=3.0, wall=True,
    ),
    Metric("overhead", "overhead, CPU %", "over a bare call, like with like, processor time", "%", goal=3.0),
    Metric(
        "overhead", "overhead as shipped %", "over a bare call, engine as shipped, wall", "%",
        "under 2 %", "and previews", goal=3.0, wall=True,
    ),
    Metric("overhead", "overhead as shipped, CPU %", "over a bare call, as shipped, processor time", "%", goal=3.0),
)  # fmt: skip
_BATCH = (
    Metric("batches", "pictures/s at 1", "pictures a second, 1 a pass", "/s", "0.25 to 0.33 /s", "as above [1]"),
    Metric("batches", "pictures/s at 2", "pictures a second, 2 a pass", "/s"),
    Metric(
        "batches", "pictures/s at 4", "pictures a second, 4 a pass", "/s", "0.26 to 0.38 /s", "1.04 to 1.15 times [2]"
    ),
    Metric(
        "batches", "pictures/s at 8", "pictures a second, 8 a pass", "/s", "0.27 to 0.40 /s", "between 4 and 16 [2]"
    ),
    Metric("batches", "CPU s a picture at 1", "processor time a picture, 1 a pass", "s"),
    Metric("batches", "CPU s a picture at 8", "processor time a picture, 8 a pass", "s"),
)
_PROMPTS = (
    Metric(
        "embeddings", "encoding ms", "encoding prompt and negative prompt", "ms",
        "10 to 30 ms", "two passes of 123 million weights",
    ),
    Metric(
        "embeddings", "encoding ms, remembered", "encoding, both remembered", "ms",
        "2 to 5 ms", "a copy of 0.2 MB [4]",
    ),
)  # fmt: skip
_SWITCH = (
    Metric("switch", "switch ms, device", "other model, both in memory", "ms", "under 1 ms", "nothing moves [4]"),
    Metric(
        "switch", "switch ms, host", "other model, weights parked in the machine's memory", "ms",
        "500 to 1,500 ms", "2.1 GB out, 2.1 GB in, pages pinned [3]",
    ),
    Metric(
        "switch", "switch ms, disk", "other model, read again", "ms",
        "2,000 to 6,000 ms", "the same load as of the cold process",
    ),
)  # fmt: skip
_PREVIEWS = (
    Metric(
        "previews", "previews %", "previews, their own time in the run", "%",
        "under 2 %", "the engine's own limit after the first one", goal=2.0,
    ),
    Metric("previews", "previews, by difference %", "runs with previews over runs without, wall", "%", "under 2 %"),
)  # fmt: skip
METRICS = (*_COLD, *_OVERHEAD, *_BATCH, *_PROMPTS, *_SWITCH, *_PREVIEWS)
"""In the order of the overview."""
