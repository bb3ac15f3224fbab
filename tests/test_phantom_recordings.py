"""The phantom's recordings keep what they promise: the same bytes, planted tuning, noise, eye and wiring."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from brodmann import phantom
from brodmann.errors import Corrupt, Usage
from brodmann.phantom import population, responding, videos, wiring
from brodmann.samples import stream

SCREEN = videos.Screen(36, 64, 30.0)
SMALL = {
    "animals": 2, "neurons": 60, "minutes": 0.5, "valid_minutes": 0.1, "test_clips": 3, "repeats": 8, "clip_s": 6.0,
    "domain_minutes": 0.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def source(folder):
    return phantom.recordings(folder=folder, **SMALL)


@pytest.fixture(scope="module")
def cells():
    """Neurons that see the middle of the screen."""
    planted = population.plant(stream(1, "test"), np.zeros((4, 2)), 160, SCREEN)
    planted[["rf_x_deg", "rf_y_deg"]] *= 0.4
    return responding.Neurons(planted, SCREEN, seed=0)


def _grating(direction_deg, sf_cpd, tf_hz, frames=45):
    x, y = SCREEN.mesh()
    along = x * np.cos(np.deg2rad(direction_deg)) + y * np.sin(np.deg2rad(direction_deg))
    time = np.arange(frames)[:, None, None] / SCREEN.rate_hz
    return np.rint(127.5 + 90 * np.cos(2 * np.pi * (sf_cpd * along - tf_hz * time))).astype(np.uint8)


def _repeats(recording, domain):
    """Responses (repeats, frames, n) to all test clips of a domain, one after the other."""
    chosen = recording.trials.query("part == 'test' and domain == @domain")
    runs = [
        np.stack([recording.responses[start : start + length] for start, length in own[["frame", "frames"]].to_numpy()])
        for _, own in chosen.groupby("clip")
    ]
    return np.concatenate(runs, axis=1)


def _ceiling(repeats):
    """CC_max of every neuron (Schoppe et al. 2016), NaN where the signal's power is not positive."""
    n, mean = len(repeats), repeats.mean(axis=0)
    power = (n * mean.var(axis=0) - repeats.var(axis=1).mean(axis=0)) / (n - 1)
    return np.sqrt(np.where(power > 0, power, np.nan) / np.maximum(mean.var(axis=0), 1e-12))


# ------------------------------------------------------------------------------------------------------- the same bytes


def test_same_bytes_for_the_same_seed_and_others_for_another(source, tmp_path):
    again = phantom.recordings(folder=tmp_path / "again", **SMALL)
    other = phantom.recordings(folder=tmp_path / "other", **{**SMALL, "seed": 1, "animals": 1})
    assert again.fingerprint == source.fingerprint != other.fingerprint
    pd.testing.assert_frame_equal(again.neurons, source.neurons)
    pd.testing.assert_frame_equal(again.synapses, source.synapses)
    for a, b in zip(source.recordings, again.recordings, strict=True):
        pd.testing.assert_frame_equal(a.trials, b.trials)
        pd.testing.assert_frame_equal(a.planted, b.planted)
        for name in ("video", "responses", "behaviour", "pupil", "expected"):
            assert getattr(a, name).tobytes() == getattr(b, name).tobytes(), name
    for name in ("video", "responses", "behaviour", "pupil"):
        assert getattr(source.recordings[0], name).tobytes() != getattr(other.recordings[0], name).tobytes(), name


def test_second_call_maps_what_the_first_wrote(source, folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = phantom.recordings(folder=folder, **SMALL)
    assert isinstance(again.recordings[0].responses, np.memmap)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert not list(folder.glob("*.partial"))


def test_an_animal_does_not_depend_on_how_many_there_are(source, tmp_path):
    alone = phantom.recordings(folder=tmp_path, **{**SMALL, "animals": 1})
    assert alone.recordings[0].responses.tobytes() == source.recordings[0].responses.tobytes()


def test_a_cache_that_lost_a_file_is_told(tmp_path):
    tiny = {**SMALL, "animals": 1, "neurons": 8, "minutes": 0.1, "repeats": 2, "test_clips": 1}
    phantom.recordings(folder=tmp_path, **tiny)
    next(tmp_path.rglob("responses.npy")).unlink()
    with pytest.raises(Corrupt, match="delete the folder"):
        phantom.recordings(folder=tmp_path, **tiny)


# --------------------------------------------------------------------------------------------------------- the contract


def test_recordings_keep_the_contract(source):
    assert len(source) == 120
    assert source.neurons["id"].is_unique
    source.space.check(source.neurons[["x_mm", "y_mm", "z_mm"]].to_numpy())
    for one in source.recordings:
        trials, frames = one.trials, len(one.responses)
        assert (source.neurons["subject"].iloc[one.rows.start : one.rows.stop] == one.subject).all()
        assert trials["frame"].tolist() == np.cumsum([0, *trials["frames"]])[:-1].tolist()
        assert trials["frames"].sum() == frames == len(one.behaviour) == len(one.pupil)
        assert (trials["video"] + trials["frames"]).max() == len(one.video)
        assert set(trials["domain"]) == set(videos.DOMAINS)
        assert set(trials.loc[trials["part"] != "test", "domain"]) == {"natural"}
        shown = trials.loc[trials["part"] == "train", "frames"].sum()
        assert shown / one.rate_hz == pytest.approx(30)
        assert one.video.dtype == np.uint8
        assert len(one.expected) == len(one.frames("test"))
        for values in (one.responses, one.behaviour, one.pupil):
            assert values.dtype == np.float32
            assert np.isfinite(values).all()
        assert one.responses.min() >= 0
        assert one.behaviour.min() >= 0


def test_repeats_show_one_video_to_an_eye_and_a_body_that_differ(source):
    for one in source.recordings:
        for _, own in one.trials.groupby("clip"):
            assert own["video"].nunique() == 1
            assert len(own) == (8 if own["part"].iloc[0] == "test" else 1)
            starts = own["frame"].to_numpy()
            assert len({one.pupil[start : start + 180].tobytes() for start in starts}) == len(own)
            assert len({one.behaviour[start : start + 180].tobytes() for start in starts}) == len(own)


def test_test_clips_are_shared_and_training_clips_are_not(source):
    a, b = source.recordings

    def clip(one, part):
        rows = one.trials[one.trials["part"] == part].drop_duplicates("clip").sort_values("clip")
        starts = zip(rows["clip"], rows["video"], rows["frames"], strict=True)
        return {name: one.video[start : start + length].tobytes() for name, start, length in starts}

    assert clip(a, "test") == clip(b, "test")
    assert not set(clip(a, "train").values()) & set(clip(b, "train").values())


def test_section_and_coordinates_do_not_tell_the_area(tmp_path):
    few = {"neurons": 8, "minutes": 0.05, "valid_minutes": 0, "test_clips": 0, "domain_minutes": 0, "clip_s": 1.0}
    source = phantom.recordings(folder=tmp_path, animals=6, **few)
    table = source.neurons.drop_duplicates("section")
    named = table.groupby(table["section"].str[-2:])["area"].nunique()
    assert named.min() > 1
    # In one common frame an area would lie at one place; here it lies as far apart as the fields do.
    place = table[["x_mm", "y_mm"]] - table.groupby("subject")[["x_mm", "y_mm"]].transform("mean")
    within = place.groupby(table["area"], observed=True).std().to_numpy().mean()
    assert within > 0.7 * place.std().mean()


@pytest.mark.parametrize(
    "wrong",
    [{"animals": 0}, {"neurons": 3}, {"minutes": 0}, {"noise": -1}, {"repeats": 0}, {"width_px": 8}, {"rate_hz": 0}],
)
def test_settings_out_of_range_are_refused(wrong, tmp_path):
    with pytest.raises(Usage, match=next(iter(wrong))):
        phantom.recordings(folder=tmp_path, **wrong)
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------------------------- the videos


def test_videos_are_pure_functions_of_their_generator_and_differ():
    drawn = {}
    for name, make in videos.DOMAINS.items():
        a, b, c = (make(stream(seed, "video"), 90, SCREEN) for seed in (0, 0, 1))
        assert a.shape == (90, 36, 64)
        assert a.dtype == np.uint8
        assert a.tobytes() == b.tobytes() != c.tobytes()
        assert a.std() > 8
        drawn[name] = a.tobytes()
    assert len(set(drawn.values())) == len(drawn)


def test_static_images_stand_still_and_noise_moves():
    change = {}
    for name in ("static", "noise", "natural"):
        film = videos.DOMAINS[name](stream(0, "video"), 300, SCREEN).astype(float)
        change[name] = (np.abs(np.diff(film, axis=0)) > 2).mean(axis=(1, 2))
    assert (change["static"] == 0).mean() > 0.8
    assert (change["noise"] > 0.3).all()
    assert 0.2 < change["natural"].mean() < change["noise"].mean()


def test_other_rates_and_sizes_are_drawn():
    screen = videos.Screen(24, 32, 60.0)
    for make in videos.DOMAINS.values():
        assert make(stream(0, "video"), 50, screen).shape == (50, 24, 32)


# --------------------------------------------------------------------------------------------------------- the neurons


def test_neurons_answer_most_to_their_planted_orientation_direction_and_frequency(cells):
    own = cells.planted
    directions = np.arange(0, 360, 15)
    tuned = own["driven"] & (own["type"] != "broad") & own["sf_cpd"].between(0.04, 0.08) & (own["rf_deg"] > 12)
    answers = np.stack([cells.visual(_grating(d, 0.055, 2.5))[12:].mean(axis=0) for d in directions])
    angles = np.deg2rad(directions)[:, None]
    turn = np.angle((answers * np.exp(2j * angles)).sum(axis=0)) / 2
    off = np.abs((np.rad2deg(turn) - 90 - own["orientation_deg"] + 90) % 180 - 90)[tuned & (answers.max(axis=0) > 0.05)]
    assert len(off) > 30
    assert off.median() < 3
    assert (off < 15).mean() > 0.9
    moved = tuned & (own["direction_selectivity"] > 0.5) & (answers.max(axis=0) > 0.05)
    best = directions[answers.argmax(axis=0)]
    wrong = np.abs((best - own["direction_deg"] + 180) % 360 - 180)[moved]
    assert len(wrong) >= 5
    assert (wrong < 60).mean() > 0.8


def test_neurons_prefer_their_planted_spatial_frequency(cells):
    own, tried = cells.planted, np.geomspace(0.02, 0.16, 7)
    tuned = (own["driven"] & (own["type"] == "complex") & own["tf_hz"].between(1, 4)).to_numpy()
    best = np.zeros((len(tried), len(own)))
    for direction in range(0, 180, 30):
        own_way = np.abs((own["direction_deg"] - direction + 90) % 180 - 90).to_numpy() <= 15
        for row, sf in enumerate(tried):
            both = np.maximum(
                *(cells.visual(_grating(d, sf, 2.5))[12:].mean(axis=0) for d in (direction, direction + 180))
            )
            best[row, own_way] = both[own_way]
    found = tried[best.argmax(axis=0)]
    assert spearmanr(found[tuned], own["sf_cpd"][tuned]).statistic > 0.8


def test_undriven_neurons_answer_to_no_video_and_grey_drives_none(cells):
    answers = cells.visual(videos.natural(stream(3, "video"), 600, SCREEN))
    undriven = ~cells.planted["driven"].to_numpy()
    assert 5 < undriven.sum() < 35
    assert (answers[:, undriven] == 1).all()
    assert (answers[30:, ~undriven].std(axis=0) > 0).mean() > 0.95
    grey = cells.visual(np.full((30, 36, 64), 127, np.uint8))
    assert grey[:, ~undriven].max() < 0.3
    bright = cells.visual(np.full((30, 36, 64), 200, np.uint8))
    gabor = ~undriven & (cells.planted["type"] != "broad").to_numpy()
    assert bright[:, gabor].max() < 0.05


def test_when_the_eye_turns_the_receptive_field_moves_with_it(cells):
    small = cells.planted["driven"] & (cells.planted["type"] != "simple") & (cells.planted["rf_deg"] < 20)
    x, y = SCREEN.mesh()
    k = int(np.flatnonzero(small)[0])
    px, py = cells.planted.loc[k, ["rf_x_deg", "rf_y_deg"]]

    def answer(shown_deg, gaze_deg):
        spot = np.exp(-((x - px - shown_deg) ** 2 + (y - py) ** 2) / (2 * 3.0**2))
        film = np.full((20, 36, 64), 127, np.uint8)
        film[5:] = np.rint(127.5 + 127 * spot).astype(np.uint8)
        return cells.visual(film, np.tile(np.float32([gaze_deg, 0]), (20, 1)))[:, k]

    there = answer(0, 0)
    assert there.max() > 0.5
    np.testing.assert_allclose(answer(15, 15), there, atol=0.1 * there.max())
    assert np.abs(answer(0, 15) - there).max() > 0.3 * there.max()


def test_the_pupil_tells_the_gaze_and_behaviour_moves_rates(source):
    life = responding.behave(stream(0, "life"), 30_000, 30.0)
    both = np.concatenate([life.pupil - life.pupil.mean(axis=0), np.ones((30_000, 1))], axis=1)
    fitted = both @ np.linalg.lstsq(both, life.gaze_deg, rcond=None)[0]
    assert np.abs(fitted - life.gaze_deg).max() < 0.5
    assert 2 < life.gaze_deg.std(axis=0).mean() < 4
    assert 0.1 < (life.running > 1).mean() < 0.6
    one = source.recordings[0]
    chosen = (one.planted["running_gain"].abs() > 0.3).to_numpy()
    slow = np.stack([np.convolve(trace, np.ones(60) / 60, "same") for trace in one.responses.T])
    running = np.convolve(one.behaviour[:, 1], np.ones(60) / 60, "same")
    moved = np.array([np.corrcoef(trace, running)[0, 1] for trace in slow])
    assert spearmanr(moved[chosen], one.planted["running_gain"][chosen]).statistic > 0.4


# ------------------------------------------------------------------------------------------------------------ the noise


def test_the_ceiling_is_that_of_real_recordings(source):
    found, lost = [], []
    for one in source.recordings:
        driven = one.planted["driven"].to_numpy()
        ceiling = _ceiling(_repeats(one, "natural"))
        found += ceiling[driven].tolist()
        lost += ceiling[~driven].tolist()
    assert 0.6 < np.nanmedian(found) < 0.8
    assert np.nanpercentile(found, 10) < 0.55
    assert np.isnan(lost).mean() > 0.2 or np.nanmedian(lost) < 0.4


def test_expected_responses_are_the_mean_and_noise_can_be_switched_off(source, tmp_path):
    one = source.recordings[0]
    frames = one.frames("test")
    measured, expected = one.responses[frames].mean(axis=0), one.expected.astype(np.float32).mean(axis=0)
    assert np.corrcoef(measured, expected)[0, 1] > 0.9
    quiet = phantom.recordings(folder=tmp_path, **{**SMALL, "animals": 1, "noise": 0.0}).recordings[0]
    np.testing.assert_allclose(quiet.responses[frames], one.expected, atol=2e-3, rtol=2e-3)


# ----------------------------------------------------------------------------------------------- areas, wiring, anatomy


def test_areas_overlap_but_can_be_told_from_function():
    from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
    from sklearn.metrics import balanced_accuracy_score

    planted = population.plant(stream(0, "areas"), np.zeros((4, 2)), 4000, SCREEN).query("driven")
    known = np.log(planted[["sf_cpd", "tf_hz", "rf_deg"]]).assign(direction=planted["direction_selectivity"])
    half = len(planted) // 2
    model = QuadraticDiscriminantAnalysis().fit(known[:half], planted["area"][:half])
    assert 0.68 < balanced_accuracy_score(planted["area"][half:], model.predict(known[half:])) < 0.82


def test_synapses_fall_with_distance_and_rise_with_similarity_alone(source):
    planted = population.plant(stream(0, "wiring"), np.arange(8).reshape(4, 2) * 3.0, 400, SCREEN)
    pairs = wiring.wire(stream(1, "wiring"), planted, np.arange(400), proofread=100)
    pre, post = planted.iloc[pairs["pre"]], planted.iloc[pairs["post"]]
    alike = wiring.similarity(pre, post)
    near = pairs["distance_um"] < 200
    within = pairs["distance_um"] < 900
    assert pairs["synapses"][near].mean() > 2 * pairs["synapses"][within & ~near].mean()
    assert pairs["synapses"][within].mean() > 5 * pairs["synapses"][~within].mean()
    assert pairs["synapses"][within & (alike > 0.4)].mean() > 2 * pairs["synapses"][within & (alike < -0.2)].mean()
    # Between neurons as far apart and as alike, where receptive fields lie says nothing.
    expected = (1 + pairs["distance_um"] / wiring.REACH_UM) ** -wiring.FALL * np.exp(wiring.LIKE * alike)
    known = within & pairs["rf_distance_deg"].notna()
    expected = (expected * pairs["synapses"][known].sum() / expected[known].sum())[known]
    left = (pairs["synapses"][known] - expected) / np.sqrt(expected)
    assert abs(np.corrcoef(left, pairs["rf_distance_deg"][known])[0, 1]) < 0.05
    assert set(source.synapses["pre"]) <= set(source.neurons["id"])
    assert (source.synapses["synapses"] == 0).mean() > 0.5
    assert len(source.synapses) == 2 * 40 * 59


def test_labels_are_missing_where_a_neuron_has_none(source):
    told = source.neurons
    assert told.loc[told["driven"] == "no", ["sf_cpd", "orientation_deg", "rf_x_deg"]].isna().all().all()
    assert told.loc[told["type"] == "broad", "orientation_deg"].isna().all()
    tuned = told[(told["driven"] == "yes") & (told["type"] != "broad")]
    assert tuned["orientation_deg"].between(0, 180).all()
    assert spearmanr(tuned["dendrite_um"], tuned["rf_deg"]).statistic > 0.5
    assert list(told["area"].cat.categories) == list(population.AREAS)
