"""
Discounted sums against time, the recursion of advantage estimation, in few operations on a device.

A processor takes the steps one after the other, T operations of N numbers. An accelerator waits for each of so small
operations, so there the sums are put together from halves: about 3 log2(T) operations of T N numbers.
"""

from __future__ import annotations

import torch as th


def discounted_sums(terms: th.Tensor, decays: th.Tensor) -> th.Tensor:
    """
    S_t = x_t + d_t S_{t+1}, S_T = 0.

    With x_t the error of one step and d_t = gamma lambda, 0 where an episode ends, these are the advantages of
    Schulman et al. 2016, equation 16.

    :param terms: x [T, N]
    :param decays: d [T, N]
    :return: S, computed as the device does it fastest [T, N]
    """
    if terms.shape != decays.shape or terms.ndim != 2:
        raise ValueError(f"discounted_sums takes two tensors [T, N], got {[*terms.shape]} and {[*decays.shape]}")
    return sums_by_step(terms, decays) if terms.device.type == "cpu" else sums_by_halves(terms, decays)


def sums_by_step(terms: th.Tensor, decays: th.Tensor) -> th.Tensor:
    """
    One step after the other, from the last to the first.

    :param terms: x [T, N]
    :param decays: d [T, N]
    :return: S [T, N]
    """
    sums = terms.clone()
    later = None
    for row, decay in zip(reversed(sums.unbind(0)), reversed(decays.unbind(0)), strict=True):
        if later is not None:
            row.addcmul_(decay, later)
        later = row
    return sums


def sums_by_halves(terms: th.Tensor, decays: th.Tensor) -> th.Tensor:
    """
    Hillis and Steele 1986: after k rounds S_t reaches 2^k steps ahead, with the product of d over these steps.

    :param terms: x [T, N]
    :param decays: d [T, N]
    :return: S [T, N]
    """
    sums, reach, n_steps = terms, 1, len(terms)
    while reach < n_steps:
        ahead = th.addcmul(sums[:-reach], decays[:-reach], sums[reach:])
        # Rows that reach the end already keep what they have; their decays are not asked for again.
        sums = th.cat((ahead, sums[-reach:]))
        decays = th.cat((decays[:-reach] * decays[reach:], decays[-reach:]))
        reach *= 2
    return sums
