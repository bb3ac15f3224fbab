"""Responses: how well answers of neurons to what was never shown in training are predicted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.errors import Refused
from brodmann.samples import stream
from brodmann.tasks import _metrics as metrics
from brodmann.tasks._medians import Units, median, summary
from brodmann.tasks._reliability import Moments, Reliability, moments
from brodmann.tasks._score import Estimate, Score

if TYPE_CHECKING:
    from brodmann.progress import Say

Real = NDArray[np.float64]

_CLIP_DRAWS = 200
_NAMED = 12


@dataclass(frozen=True, eq=False, kw_only=True)
class Answer:
    """Predicted and observed responses of one recording to one kind of stimulus; T frames, R repeats, n neurons.

    Parameters
    ----------
    subject, recording : str
        The animal, and the recording (unique over animals).
    domain : str
        Kind of stimulus.
    ids : ndarray (n,) of str
        Neurons, unique over recordings; the same in every domain of a recording.
    predicted : ndarray (T, n) or (R, T, n) floating
        One prediction for all repeats, or one for each.
    observed : ndarray (R, T, n) floating
        Responses; NaN in all neurons where a repeat is missing.
    clips : mapping of str to int
        Frames of each clip in the order of T; an equal name in another recording means the same video.
    rivals : mapping of str to ndarray
        Other predictions, shaped as ``predicted`` may be.
    """

    subject: str
    recording: str
    domain: str
    ids: NDArray[Any]
    predicted: NDArray[np.floating[Any]]
    observed: NDArray[np.floating[Any]]
    clips: Mapping[str, int]
    rivals: Mapping[str, NDArray[np.floating[Any]]] = field(
        default_factory=lambda: dict[str, NDArray[np.floating[Any]]]()
    )


@dataclass(frozen=True, eq=False)
class _Judged:
    """Agreement in one recording and domain; arrays of responses are let go."""

    sums: Moments
    own: Reliability
    rivals: dict[str, Reliability]
    clips: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Heard:
    """One recording: whose it is, its neurons, and its domains."""

    subject: str
    ids: NDArray[Any]
    domains: dict[str, _Judged]


def responses(
    answers: Iterable[Answer],
    *,
    main: str | None = None,
    target: str = "responses",
    burn_in: int = 0,
    split: str = "clips that were never trained on",
    seed: int = 0,
    about: Mapping[str, Any] | None = None,
    say: Say | None = None,
) -> Score:
    """Score predictions of responses: median CC_norm over neurons, with its interval, its rivals and other domains.

    CC_norm is that of Schoppe et al. (2016), over all clips of a domain together. Neurons without signal power have
    none: they are counted, and the medians are over the others. Where no recording repeats a clip the single-trial
    correlation is the headline, and the score says so. The interval draws whole animals where there are three, else
    neurons.

    Parameters
    ----------
    answers : iterable of Answer
        One per recording and domain; taken one at a time, so that they may be computed as they are asked for.
    main : str, optional
        Domain of the headline; by default that of the first answer.
    target : str
        What was predicted, for the name of the score.
    burn_in : int
        Frames at the start of each clip that are not judged.
    split : str
        What was held out, in words.
    seed : int
        Key of every draw.
    about : mapping, optional
        ``recipe_hash`` and ``data_fingerprint`` of what predicted.
    say : Say, optional
        Where it is said which recording is done.

    Returns
    -------
    Score
        ``predicted`` holds each neuron's value in the main domain (NaN where undefined), ``truth`` is empty.

    Raises
    ------
    Refused
        No answers, none in the main domain, two for one recording and domain, neurons that differ between domains,
        rivals missing in a recording, or arrays that `moments` refuses.
    """
    heard, remarks = _listen(answers, burn_in, say)
    first = next((domain for one in heard.values() for domain in one.domains), None)
    main = main or first
    asked = [one for one in heard.values() if main in one.domains]
    if main is None or not asked:
        raise Refused(
            "some recording should answer to the main domain.",
            found=f"'{main}' in none of {len(heard)}." if heard else "no answers.",
        )
    domains = sorted(
        {domain for one in heard.values() for domain in one.domains}, key=lambda name: (name != main, name)
    )
    repeated = max(one.domains[main].sums.repeats for one in asked) > 1
    measure = (lambda r: r.normalised) if repeated else (lambda r: r.single)
    name = "median CC_norm" if repeated else "median single-trial correlation"
    if not repeated:
        remarks.append("no clip is repeated: noise cannot be told from signal, the headline is the single-trial one")
    rivals = _rivals(asked, main)

    def over(domain: str, pick: Callable[[_Judged], Real]) -> Real:
        """One number per neuron of every recording, NaN where the domain was not shown."""
        return np.concatenate(
            [pick(one.domains[domain]) if domain in one.domains else np.full(len(one.ids), np.nan)
             for one in heard.values()]
        )  # fmt: skip

    values: dict[str, Real] = {}
    for domain in domains:
        values[domain] = over(domain, lambda j: measure(j.own))
        for rival in rivals:
            values[f"{domain}, {rival}"] = over(
                domain,
                lambda j, rival=rival: measure(j.rivals.get(rival, j.own)) * (1 if rival in j.rivals else np.nan),
            )
    further = {
        "single-trial correlation": over(main, lambda j: j.own.single),
        "correlation to average (CC_abs)": over(main, lambda j: j.own.absolute),
        "CC_max": over(main, lambda j: j.own.maximum),
    }
    subject = np.concatenate([np.repeat(np.array([one.subject], dtype=object), len(one.ids)) for one in heard.values()])
    mine = np.concatenate([np.full(len(one.ids), main in one.domains) for one in heard.values()])
    units = Units.of(subject, seed)
    draws = units.medians({**values, **further})
    value, n = median(values[main]), int(np.isfinite(values[main]).sum())
    overall = metrics.estimate(value, draws[main])
    more: dict[str, Estimate] = {key: summary(each, draws[key], "median") for key, each in further.items()}
    more["undefined neurons"] = Estimate(float(mine.sum() - n), note=f"of {int(mine.sum()):,}, left out of medians")
    more |= _domains(domains[1:], main, rivals, values, draws)
    more |= _over_clips(asked, main, measure, value, seed)
    names = np.unique(subject.astype(str))
    if 1 < len(names) <= _NAMED:
        for who in names:
            some = values[main][subject.astype(str) == who]
            more[f"animal {who}"] = Estimate(median(some), note=f"{int(np.isfinite(some).sum()):,} neurons")
    remarks += _caveats(heard, asked, main, n, int(mine.sum()), units)
    every = np.concatenate([np.asarray(one.ids).astype(str) for one in heard.values()]).astype(object)
    shown = pd.Series(values[main][mine], index=pd.Index(every[mine], name="id", dtype=object), name="predicted")
    made = about or {}
    return Score(
        task="responses", target=target, metric=name, value=value, interval=(overall.low, overall.high), n=n,
        n_groups=units.count, cluster=units.word, what="neurons", scored="model", split=f"{split}; {main}", seed=seed,
        baselines={rival: summary(values[f"{main}, {rival}"], draws[f"{main}, {rival}"]) for rival in rivals},
        gains={
            rival: metrics.estimate(value - median(values[f"{main}, {rival}"]), draws[main] - draws[f"{main}, {rival}"])
            for rival in rivals
        },
        more=more, predicted=shown, truth=shown.head(0), recipe_hash=str(made.get("recipe_hash", "")),
        data_fingerprint=str(made.get("data_fingerprint", "")), remarks=tuple(remarks),
    )  # fmt: skip


def _listen(answers: Iterable[Answer], burn_in: int, say: Say | None) -> tuple[dict[str, _Heard], list[str]]:
    """Agreement of every recording and domain, and what was left out."""
    heard: dict[str, _Heard] = {}
    remarks: list[str] = []
    for answer in answers:
        ids = np.asarray(answer.ids)
        one = heard.setdefault(answer.recording, _Heard(answer.subject, ids, {}))
        if answer.domain in one.domains:
            raise Refused(
                "a recording should answer once to each domain.", found=f"{answer.recording}, {answer.domain}: twice."
            )
        if not np.array_equal(one.ids.astype(str), ids.astype(str)) or len(ids) != answer.observed.shape[-1]:
            raise Refused(
                "the neurons of a recording should be the same in every domain, one per column.",
                found=f"{answer.recording}, {answer.domain}: {len(ids)} ids, {len(one.ids)} in its first domain, "
                f"{answer.observed.shape[-1]} columns.",
            )
        lengths = list(answer.clips.values())
        sums = moments(answer.predicted, answer.observed, clips=lengths, burn_in=burn_in)
        rivals = {
            name: moments(other, answer.observed, clips=lengths, burn_in=burn_in).reliability()
            for name, other in answer.rivals.items()
        }
        names = list(answer.clips)
        one.domains[answer.domain] = _Judged(sums, sums.reliability(), rivals, tuple(names[c] for c in sums.clips))
        remarks += [f"{answer.recording}, {answer.domain}: {remark}" for remark in sums.remarks]
        if say is not None:
            say(f"{answer.recording}, {answer.domain}: {len(ids):,} neurons judged on {sums.repeats} repeats")
    return heard, remarks


def _rivals(asked: list[_Heard], main: str) -> list[str]:
    """Names of rivals, which every recording must have: medians over other neurons could not be compared."""
    names = list(asked[0].domains[main].rivals)
    for one in asked:
        if set(one.domains[main].rivals) != set(names):
            raise Refused(
                "rivals should answer for every recording of the main domain.",
                found=f"{sorted(one.domains[main].rivals)} in one, {sorted(names)} in another.",
            )
    return names


def _domains(
    others: list[str], main: str, rivals: list[str], values: Mapping[str, Real], draws: Mapping[str, Real]
) -> dict[str, Estimate]:
    """Other domains: median, its fraction of the main domain, and rivals."""
    found: dict[str, Estimate] = {}
    for domain in others:
        known = int(np.isfinite(values[domain]).sum())
        found[domain] = summary(values[domain], draws[domain], f"median over {known:,} neurons")
        ratio = median(values[domain]) / median(values[main]) if median(values[main]) else float("nan")
        share = np.divide(draws[domain], draws[main], out=np.full_like(draws[main], np.nan), where=draws[main] != 0)
        found[f"{domain}, fraction of {main}"] = metrics.estimate(ratio, share)
        for rival in rivals:
            key = f"{domain}, {rival}"
            if np.isfinite(values[key]).any():
                found[key] = summary(values[key], draws[key])
    return found


def _over_clips(
    asked: list[_Heard], main: str, measure: Callable[[Reliability], Real], value: float, seed: int
) -> dict[str, Estimate]:
    """The headline with an interval over clips: how much hangs on which clips were shown."""
    names = sorted({clip for one in asked for clip in one.domains[main].clips})
    if len(names) < 3:
        return {}
    number = {name: i for i, name in enumerate(names)}
    rng = stream(seed, "clips", len(names))
    draws = np.empty(_CLIP_DRAWS)
    for b in range(_CLIP_DRAWS):
        times = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))
        parts: list[Real] = []
        for one in asked:
            judged = one.domains[main]
            own = times[[number[clip] for clip in judged.clips]]
            if own.any():
                parts.append(measure(judged.sums.reliability(own)))
        draws[b] = median(np.concatenate(parts)) if parts else np.nan
    return {"interval over clips": metrics.estimate(value, draws, f"the headline, {len(names)} clips drawn anew")}


def _caveats(
    heard: Mapping[str, _Heard], asked: list[_Heard], main: str, n: int, total: int, units: Units
) -> list[str]:
    judged = [one.domains[main] for one in asked]
    remarks = [units.remark]
    if n < total:
        remarks.append(
            f"{total - n:,} of {total:,} neurons have no signal power or constant responses in '{main}': undefined"
        )
    flat = sum(int((one.own.flat & ~one.own.undefined).sum()) for one in judged)
    if flat:
        remarks.append(f"{flat:,} predictions do not vary: they count as 0")
    repeats = sorted({one.sums.repeats for one in judged})
    remarks.append(f"{main}: {'/'.join(map(str, repeats))} repeats, {len(asked)} of {len(heard)} recordings")
    return [text for text in remarks if text]
