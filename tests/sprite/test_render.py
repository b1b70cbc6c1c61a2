"""Drawing needs cairo, which only the making of the model needs: without it these tests are skipped."""

import dataclasses
import random
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tools.sprite.vocabulary import ACCESSORIES, TAGS, Character, sample

if TYPE_CHECKING:
    from tools.sprite.render import FACE_BOX, SIZE, render
else:
    pytest.importorskip("cairo")
    from tools.sprite.render import FACE_BOX, SIZE, render


def test_the_same_character_and_seed_give_the_same_pixels() -> None:
    one = sample(random.Random(1))
    assert (render(one, 5) == render(one, 5)).all()
    assert (render(one, 5) != render(one, 6)).any()


@pytest.mark.parametrize("attribute", sorted(set(TAGS) - {"gender"}))
def test_every_value_of_an_attribute_looks_different(attribute: str) -> None:
    characters = [dataclasses.replace(Character(), **{attribute: value}) for value in TAGS[attribute]]  # type: ignore[arg-type]
    pictures = [render(one, 3) for one in characters]
    assert all(picture.shape == (SIZE, SIZE, 3) for picture in pictures)
    for index, picture in enumerate(pictures):
        assert all((picture != other).any() for other in pictures[:index])


@pytest.mark.parametrize("name", ACCESSORIES)
def test_an_accessory_shows(name: str) -> None:
    worn = render(dataclasses.replace(Character(), accessories=(name,)), 3)
    assert (worn != render(Character(), 3)).any(-1).sum() > 100


def test_the_eyes_are_in_the_face_box_and_take_many_cells_of_the_latent_grid() -> None:
    blue, red = (render(dataclasses.replace(Character(), eyes=eyes), 3).astype(int) for eyes in ("blue", "red"))
    changed = np.abs(blue - red).sum(-1) > 60
    left, top, right, bottom = FACE_BOX
    assert not changed[:top].any()
    assert not changed[bottom:].any()
    assert not changed[:, :left].any()
    assert not changed[:, right:].any()
    assert changed.reshape(32, 4, 32, 4).any((1, 3)).sum() >= 16


def test_a_degraded_picture_is_blurred_or_noisy_but_the_same_one() -> None:
    good = render(Character(), 3).astype(int)
    bad = render(dataclasses.replace(Character(), degraded=True), 3).astype(int)
    assert 2 < np.abs(good - bad).mean() < 40
