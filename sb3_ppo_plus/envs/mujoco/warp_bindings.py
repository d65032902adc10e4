"""MuJoCo-Warp: is it installed, where may it compute, and how quiet it is."""

from __future__ import annotations

import torch as th

from sb3_ppo_plus.errors import InvalidArgument

try:
    import mujoco_warp as mjw
    import warp as wp
except ImportError as missing:
    raise ImportError(
        f'engine="warp" needs MuJoCo-Warp 4 ({missing}): pip install sb3_ppo_plus[warp]; engine="cpu" needs nothing'
    ) from missing
if int(mjw.__version__.partition(".")[0]) < 4:
    raise ImportError(
        f'engine="warp" needs MuJoCo-Warp 4, whose models may differ between simulations; found: {mjw.__version__}. '
        "pip install sb3_ppo_plus[warp]"
    )

__all__ = ["find_device", "mjw", "wp"]

# Warp prints a line for each of a hundred kernels that it loads, and a library does not print. Who asked for more
# words, or fewer, keeps them.
if wp.config.log_level == wp.LOG_INFO:
    wp.config.log_level = wp.LOG_WARNING


def find_device(device: th.device | str) -> th.device:
    """
    :param device: what the user gave
    :return: the same with its number, which Warp and torch then mean alike
    :raises InvalidArgument: for a device that torch or Warp does not have
    """
    try:
        found = th.device(device)
    except (RuntimeError, TypeError) as unknown:
        raise InvalidArgument(f"device={device!r} is none that torch knows; give 'cuda' or 'cpu'") from unknown
    if found.type == "cpu":
        return th.device("cpu")
    if found.type != "cuda":
        raise InvalidArgument(f"device={device!r}, but MuJoCo-Warp computes on NVIDIA GPUs; give 'cuda' or 'cpu'")
    if not th.cuda.is_available():
        raise InvalidArgument(
            f"device={device!r}, but torch finds no CUDA device; give device='cpu', or install a torch for your GPU"
        )
    index = th.cuda.current_device() if found.index is None else found.index
    count = min(th.cuda.device_count(), wp.get_cuda_device_count())
    if not 0 <= index < count:
        raise InvalidArgument(f"device={device!r}, but torch and Warp both see {count} CUDA devices, counted from 0")
    return th.device("cuda", index)
