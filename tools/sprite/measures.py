"""What the evaluation counts: accuracies with their uncertainty, and a Fréchet distance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.floating]
Labels = NDArray[np.int64]

#: The label of what cannot be seen in a picture.
UNSEEN = -1


def accuracy(found: Labels, asked: Labels) -> float:
    """The share of pictures that show what was asked for, those that cannot show it left out."""
    seen = asked != UNSEEN
    return float((found[seen] == asked[seen]).mean())


def balanced_accuracy(found: Labels, asked: Labels) -> float:
    """The mean over what was asked for of the share that shows it: chance is one over their number."""
    values = [value for value in np.unique(asked) if value != UNSEEN]
    return float(np.mean([(found[asked == value] == value).mean() for value in values]))


def interval(share: float, count: int) -> float:
    """Half of the 95 % interval of a share of so many (Agresti and Coull)."""
    trials = count + 4
    centre = (share * count + 2) / trials
    return 1.96 * math.sqrt(centre * (1 - centre) / trials)


def frechet(one: Numbers, other: Numbers) -> float:
    """The Fréchet distance of two sets of features (pictures × features), taken as normal distributions.

    |m₁ − m₂|² + tr(C₁ + C₂ − 2 (C₁ C₂)^½), Heusel et al. 2017. It depends on the number of pictures:
    compare equal numbers.
    """
    first, second = one.astype(np.float64), other.astype(np.float64)
    covariances = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ covariances[1] @ root).clip(0)).sum()
    apart = float(((first.mean(0) - second.mean(0)) ** 2).sum())
    return apart + float(np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * shared)


def spread(pictures: NDArray[np.uint8]) -> float:
    """How far pictures are apart from each other: the root mean square over all pairs, 0 to 255."""
    values = pictures.astype(np.float64).reshape(len(pictures), -1)
    return float(np.sqrt(2 * values.var(axis=0, ddof=1).mean()))


def mean(shares: Sequence[float]) -> float:
    """The plain mean."""
    return sum(shares) / len(shares)
