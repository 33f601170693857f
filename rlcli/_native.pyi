"""Types of the native kernels; `csrc/bind_<name>.cpp` is where each is bound."""

import numpy as np
from numpy.typing import NDArray

def gae_float32(
    reward: NDArray[np.float32],
    value: NDArray[np.float32],
    next_value: NDArray[np.float32],
    terminated: NDArray[np.bool_],
    done: NDArray[np.bool_],
    *,
    gamma: float,
    lam: float,
) -> NDArray[np.float32]: ...
def gae_float64(
    reward: NDArray[np.float64],
    value: NDArray[np.float64],
    next_value: NDArray[np.float64],
    terminated: NDArray[np.bool_],
    done: NDArray[np.bool_],
    *,
    gamma: float,
    lam: float,
) -> NDArray[np.float64]: ...
