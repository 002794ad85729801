"""Where ratios of the model's own work are taken: on the GPU where there is one, as the pipeline does."""

from __future__ import annotations

import torch

from minigpts.model.device import device
from minigpts.params import Runtime

DEVICE = device(Runtime(batch_tokens=1, num_threads=None, launcher=None))


def wait() -> None:
    """Until the device has done all it was given, so that a clock that is read next counts it."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
