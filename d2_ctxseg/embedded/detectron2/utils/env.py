"""Random seeds."""

import logging
import os
import random
from datetime import datetime

import numpy as np
import torch

__all__ = ["seed_all_rng"]


def seed_all_rng(seed: int | None = None) -> None:
    """Seed the random numbers of Python, numpy and torch (all devices).

    Args:
        seed: in [0, 2**32). None draws one, and logs it.
    """
    if seed is None:
        clock = int(datetime.now().strftime("%S%f"))
        seed = os.getpid() + clock + int.from_bytes(os.urandom(2), "big")
        logging.getLogger(__name__).info(f"Using a generated random seed {seed}")
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    # For the Python processes that this one starts; its own hashes are settled already.
    os.environ["PYTHONHASHSEED"] = str(seed)
