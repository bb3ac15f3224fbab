"""An optimiser for kernels: momentum made orthogonal, so that every direction of a kernel learns at one pace.

Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/. Everything that is not a kernel is left to AdamW.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

PACE = 20 / 3
"""Learning rate of kernels over that of all else: their steps have a length of their own."""
MOMENTUM = 0.95
_QUINTIC = (3.4445, -4.7750, 2.0315)  # of the iteration that takes singular values to about 1 (Jordan et al.)
_ROUNDS = 5


class Muon(torch.optim.AdamW):
    """AdamW, but for kernels, which take orthogonal steps.

    Parameters
    ----------
    groups : list of dict
        As of AdamW, for all but the kernels.
    kernels : sequence of Tensor
        (S, O, ...): stacks of S maps to O outputs.
    lr : float
        Of all but the kernels, whose own is `PACE` times it.
    """

    def __init__(self, groups: list[dict[str, Any]], kernels: Sequence[Tensor], lr: float) -> None:
        super().__init__([*groups, {"params": list(kernels), "weight_decay": 0.0, "kernels": True}], lr=lr)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step; parameters without a gradient are left alone."""
        for group in self.param_groups:
            if group.get("kernels"):
                for kernel in group["params"]:
                    if kernel.grad is not None:
                        self._turn(kernel, PACE * group["lr"])
                        # what follows should not move it a second time
                        kernel.grad = None
        super().step(closure)

    def _turn(self, kernel: Tensor, lr: float) -> None:
        state = self.state[kernel]
        if not state:
            state["step"], state["momentum"] = torch.zeros(()), torch.zeros_like(kernel)
        state["step"] += 1
        past = state["momentum"]
        past.mul_(MOMENTUM).add_(kernel.grad)
        ahead = (kernel.grad + MOMENTUM * past).flatten(2)
        long = max(1.0, ahead.shape[1] / ahead.shape[2]) ** 0.5
        kernel.sub_((lr * long * orthogonal(ahead)).view_as(kernel))


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices (S, m, n) with all singular values taken to about 1 (within 0.7 to 1.2), by Newton-Schulz iteration."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    a, b, c = _QUINTIC
    for _ in range(_ROUNDS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x
