"""What the animal's behaviour (pupil radius, running) says to the core: a small recurrent network over time.

Wang et al., 2025, Methods, "Modulation module". B clips, T frames, S streams, M width; an animal's own weights read its
behaviour, the memory is shared by all animals.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brodmann.neurons.perspective import GELU_GAIN
from brodmann.neurons.standardised import Standardised

State = tuple[Tensor, Tensor]


class Modulation(nn.Module):
    """Linear map and GELU for each animal, then an LSTM for all.

    Parameters
    ----------
    animals, streams, behaviour, width : int
        ``behaviour`` is the number of quantities measured.
    """

    def __init__(self, animals: int, streams: int, behaviour: int, width: int) -> None:
        super().__init__()
        self.streams, self.width = streams, width
        # zero at first: behaviour says nothing until it is found to matter
        self.read = Standardised((animals, streams, width), (behaviour,), standardise=False, zero=True)
        self.gates = Standardised((streams, 4 * width), (2 * width,))
        with torch.no_grad():
            self.gates.shift()[:, :width] = -1  # input gate, half shut
            self.gates.shift()[:, width : 2 * width] = 1  # forget gate, half open

    def forward(
        self, behaviour: Tensor, animal: Tensor, state: State | None, *, stream: int | None
    ) -> tuple[Tensor, State]:
        """Modulation of every frame.

        Parameters
        ----------
        behaviour : (B, T, I) float
            In units of its spread; 0 where it is not known.
        animal : (B,) int64
        state : pair of (B, S or 1, M), or None
            What is remembered from earlier frames; None starts afresh.
        stream : int or None
            One stream, or all.

        Returns
        -------
        (B, T, S or 1, M)
        state
        """
        one = slice(None) if stream is None else slice(stream, stream + 1)
        weight, bias = self.read.ready(animal)[:, one], self.read.shift(animal)[:, one]
        heard = torch.einsum("bti,bsmi->btsm", behaviour.to(weight.dtype), weight) + bias[:, None]
        heard = F.gelu(heard) * GELU_GAIN
        gates, shift = doubled(self.gates.ready(one)), doubled(self.gates.shift(one))
        # the input's share of the gates, for all frames in one product
        ahead = torch.einsum("btsm,som->tbso", heard, gates[..., : self.width]) + shift
        again = gates[..., self.width :].transpose(1, 2)
        if state is None:
            zero = ahead.new_zeros(ahead.shape[1], ahead.shape[2], self.width)
            state = zero, zero
        hidden, cell = state
        said: list[Tensor] = []
        for given in ahead:
            hidden, cell = lstm(given + torch.einsum("bsm,smo->bso", hidden, again), cell)
            said.append(hidden)
        return torch.stack(said, dim=1), (hidden, cell)


def doubled(gates: Tensor) -> Tensor:
    """Weights (S, 4 M, ...) or biases of gates, with those of the candidate, the third quarter, doubled for `lstm`."""
    enter, forget, candidate, leave = gates.chunk(4, dim=1)
    return torch.cat([enter, forget, 2 * candidate, leave], dim=1)


def lstm(gates: Tensor, cell: Tensor, *, dim: int = -1) -> State:
    """One step of a long short-term memory (Hochreiter & Schmidhuber, 1997).

    Parameters
    ----------
    gates : (..., 4 M, ...)
        Input, forget, candidate and output along ``dim``, before their nonlinearities, the candidate `doubled`:
        tanh x = 2 sigmoid(2 x) - 1, so that one pass serves all, and processors are slow at tanh.
    cell : (..., M, ...)

    Returns
    -------
    hidden, cell : (..., M, ...)
    """
    enter, forget, candidate, leave = gates.sigmoid().chunk(4, dim=dim)
    cell = torch.addcmul(forget * cell - enter, enter, candidate, value=2)
    return torch.addcmul(-leave, leave, (2 * cell).sigmoid(), value=2), cell
