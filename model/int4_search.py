"""Scales and codes of 4-bit weights: a search over each group, without calibration data.

A group of weights is stored as ``scale * CODEBOOK[code]``. The levels are not evenly spaced:
they lie denser where weights are more frequent, as in NF4 (Dettmers et al. 2023, QLoRA, section
3) and llama.cpp's IQ4_NL. These were derived for normally distributed weights in groups of
GROUP_LEN under this very search; :func:`refined_codebook` is the step that does it again.
"""

from __future__ import annotations

import torch
from torch import Tensor

GROUP_LEN = 32
"""Inputs of one output that share a scale."""

CODEBOOK: tuple[int, ...] = (
    *(-127, -98, -77, -61, -47, -34, -21, -9),
    *(3, 15, 28, 41, 55, 72, 92, 120),
)
"""The level of each code, ascending."""

_FRACTIONS = (1.04, 1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.76)
"""What part of a group's largest weight may lie on the outermost level."""

_NUM_REFINEMENTS = 2
_LARGEST = torch.finfo(torch.float16).max
_SMALLEST = 1e-38
_TABLE_STEPS = 4
_CHUNK_GROUPS = 1 << 13


class Levels:
    """A codebook, and a table of the level next to each finely rounded value."""

    def __init__(self, codebook: Tensor) -> None:
        self.values = codebook.float()
        self.low, self.high = float(self.values[0]), float(self.values[-1])
        count = round((self.high - self.low) * _TABLE_STEPS) + 1
        grid = self.low + torch.arange(count) / _TABLE_STEPS
        middles = (self.values[1:] + self.values[:-1]) / 2
        self._codes = torch.bucketize(grid, middles).to(torch.uint8)
        self._nearest = self.values[self._codes.long()]

    def codes(self, scaled: Tensor) -> Tensor:
        """The code of the level next to each value, uint8."""
        return torch.index_select(self._codes, 0, self._index(scaled)).view_as(scaled)

    def nearest(self, scaled: Tensor) -> Tensor:
        """The level next to each value, float32."""
        return torch.index_select(self._nearest, 0, self._index(scaled)).view_as(scaled)

    def _index(self, scaled: Tensor) -> Tensor:
        steps = (scaled - self.low).mul_(_TABLE_STEPS).round_()
        return steps.clamp_(0, self._codes.numel() - 1).int().view(-1)


def fit_groups(
    groups: Tensor, levels: Levels, energy: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The scales (G, float16) and codes (GROUP_LEN, G, uint8) of ``groups`` (GROUP_LEN, G).

    ``energy`` (GROUP_LEN, G) is what each squared error counts.
    """
    chunks = torch.split(groups, _CHUNK_GROUPS, 1)
    energies = [None] * len(chunks) if energy is None else torch.split(energy, _CHUNK_GROUPS, 1)
    fits = [_fit(chunk, levels, one) for chunk, one in zip(chunks, energies, strict=True)]
    scales, codes = zip(*fits, strict=True)
    return torch.cat(scales), torch.cat(codes, 1)


def fit_matrix(weight: Tensor, energy: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The scales (N, K / GROUP_LEN, float16) and codes (N, K, uint8) of a matrix (N, K).

    ``energy`` (K) is what the squared error of each input counts.
    """
    num_outputs, num_inputs = weight.shape
    levels = Levels(torch.tensor(CODEBOOK))
    by_group = None if energy is None else _by_group(energy.expand_as(weight))
    scales, codes = fit_groups(_by_group(weight), levels, by_group)
    return scales.view(num_outputs, -1), codes.T.reshape(num_outputs, num_inputs)


def _by_group(matrix: Tensor) -> Tensor:
    """(N, K) -> (GROUP_LEN, N * K / GROUP_LEN): sums over a group are then vectorised."""
    return matrix.reshape(-1, GROUP_LEN).T.contiguous()


def _fit(groups: Tensor, levels: Levels, energy: Tensor | None) -> tuple[Tensor, Tensor]:
    weighted = groups if energy is None else groups * energy
    largest = groups.gather(0, groups.abs().argmax(0, keepdim=True))[0]
    best = torch.zeros_like(largest)
    best_gain = torch.zeros_like(largest)

    def consider(scale: Tensor) -> None:
        """Take least squares' scale for the levels that ``scale`` picks, where it is better."""
        picked = levels.nearest(groups * _inverse(scale))
        match = (weighted * picked).sum(0)
        power = (picked * picked if energy is None else picked * picked * energy).sum(0)
        refined = (match * _inverse(power)).clamp_(-_LARGEST, _LARGEST).half().float()
        # By how much the squared error is less than that of zeros.
        gain = refined * (2 * match - refined * power)
        torch.where(gain > best_gain, refined, best, out=best)
        torch.maximum(gain, best_gain, out=best_gain)

    for end in (levels.low, levels.high):
        for fraction in _FRACTIONS:
            consider(largest * (fraction / end))
    for _ in range(_NUM_REFINEMENTS):
        consider(best.clone())
    scale = best.half()
    return scale, levels.codes(groups * _inverse(scale.float()))


def _inverse(x: Tensor) -> Tensor:
    """1 / x, and 0 where that is none of float32's numbers."""
    return torch.where(x.abs() < _SMALLEST, 0.0, 1 / x)
