"""Figures of a classifier: AUC with its interval, calibration, confusion. NumPy only.

Intervals are bootstraps over patients, since one patient's nodules resemble each other.
"""

from __future__ import annotations

import numpy as np


def auc(truth: np.ndarray, score: np.ndarray) -> float:
    """Return the area under the ROC curve of scores [n] for truth [n] bool; ties count half."""
    positives = int(truth.sum())
    negatives = truth.size - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    order = np.argsort(score, kind="stable")
    ordered = score[order]
    _, first, count = np.unique(ordered, return_index=True, return_counts=True)
    rank = np.repeat(first + (count + 1) / 2, count)
    return float((rank[truth[order]].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def auc_interval(
    truth: np.ndarray, score: np.ndarray, patient: np.ndarray, samples: int = 1000, seed: int = 1
) -> tuple[float, float]:
    """Return the 95 % interval of auc() when patients are drawn with replacement."""
    rng = np.random.default_rng(seed)
    _, index = np.unique(patient, return_inverse=True)
    members = [np.flatnonzero(index == p) for p in range(index.max() + 1)]
    values = []
    for _ in range(samples):
        drawn = np.concatenate([members[p] for p in rng.integers(len(members), size=len(members))])
        values.append(auc(truth[drawn], score[drawn]))
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-np.clip(x, -60, 60)))


def fit_platt(truth: np.ndarray, logit: np.ndarray, rounds: int = 50) -> tuple[float, float]:
    """Return slope and shift so that sigmoid(slope * logit + shift) fits truth best (Newton's method).

    Platt 1999; the slope is 1 / temperature.
    """
    design = np.stack([logit, np.ones_like(logit)], 1)
    weights = np.array([1.0, 0.0])
    for _ in range(rounds):
        probability = sigmoid(design @ weights)
        gradient = design.T @ (probability - truth)
        curvature = (design * (probability * (1 - probability))[:, None]).T @ design + 1e-6 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step
        if np.abs(step).max() < 1e-9:
            break
    return float(weights[0]), float(weights[1])


def reliability(truth: np.ndarray, probability: np.ndarray, bins: int = 10) -> tuple[list[dict], float]:
    """Return rows of a reliability table with equal widths, and the expected calibration error."""
    rows, error = [], 0.0
    place = np.minimum((probability * bins).astype(int), bins - 1)
    for b in range(bins):
        inside = place == b
        if not inside.any():
            continue
        said, was = float(probability[inside].mean()), float(truth[inside].mean())
        rows.append({"from": b / bins, "to": (b + 1) / bins, "n": int(inside.sum()), "said": said, "was": was})
        error += inside.mean() * abs(said - was)
    return rows, float(error)


def confusion(truth: np.ndarray, guess: np.ndarray, classes: int) -> np.ndarray:
    """Return counts [classes, classes]: rows are the truth, columns the guess."""
    table = np.zeros((classes, classes), dtype=int)
    np.add.at(table, (truth, guess), 1)
    return table


def noisy_or(probability: np.ndarray, leak: float, top: int = 5) -> float:
    """Return a patient's probability, 1 - (1 - leak) * prod(1 - p_i) over the `top` highest nodules.

    The leaky noisy-or of Liao et al. 2019 (arXiv 1711.08324); with no nodule it is the leak.
    """
    highest = np.sort(np.asarray(probability, dtype=float))[::-1][:top]
    return float(1 - (1 - leak) * np.prod(1 - highest))


def fit_leak(truth: np.ndarray, probability: list[np.ndarray], top: int = 5) -> float:
    """Return the leak in 0.001..0.2 under which patients' truth [n] is most likely, given their nodules."""
    candidates = np.linspace(0.001, 0.2, 200)
    likelihood = []
    for leak in candidates:
        said = np.clip([noisy_or(p, leak, top) for p in probability], 1e-6, 1 - 1e-6)
        likelihood.append(np.sum(np.where(truth, np.log(said), np.log(1 - said))))
    return float(candidates[int(np.argmax(likelihood))])
