"""What the questions about responses need of this system: predictions beside observations, and who was never seen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from brodmann.neurons import rivals
from brodmann.neurons.answers import answers as predicted

if TYPE_CHECKING:
    from brodmann.neurons.model import NeuronModel
    from brodmann.neurons.samples import NeuronSamples


def answers(recipe: Any, model: NeuronModel, samples: NeuronSamples) -> Iterator[dict[str, Any]]:
    """Predicted and observed responses to the test trials, recording by recording and domain by domain.

    Parameters
    ----------
    recipe : Recipe
    model : NeuronModel
        That the samples suit.
    samples : NeuronSamples

    Yields
    ------
    dict
        The fields of `brodmann.tasks.responses.Answer`; the rival is `brodmann.neurons.rivals.linear`.
    """
    del recipe
    yield from predicted(samples, model.predict, {"linear filters": rivals.linear(samples)})


def unseen(model: NeuronModel, samples: NeuronSamples) -> dict[str, list[str]]:
    """Recordings of each animal that the model does not know; to be asked before it learns them.

    Parameters
    ----------
    model : NeuronModel
    samples : NeuronSamples

    Returns
    -------
    dict
        ``animals``: those that no recording of the model is of. ``recordings``: all that it does not know.
    """
    known = {one.id for one in model.known}
    new = [kept.recording for kept in samples.kept if kept.recording.id not in known]
    met = {kept.recording.subject for kept in samples.kept if kept.recording.id in known}
    animals = dict.fromkeys(recording.subject for recording in new if recording.subject not in met)
    return {"animals": list(animals), "recordings": [recording.id for recording in new]}
