"""Prequential figures against River's metrics and dummy classifiers, and against direct sums."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import dummy, utils
from river import metrics as river_metrics

from streamlearn.prequential import KINDS, LEAST, UNKNOWN, Prequential
from streamlearn.state import Part
from tests.streams import WHOLE_STREAMS

metrics: Any = river_metrics  # not typed
WINDOW, FADING = 20, 0.95


class Scored(NamedTuple):
    predicted: int
    actual: int
    probability: float


Stream = Sequence[Scored]

streams = st.lists(
    st.builds(Scored, st.integers(UNKNOWN, 4), st.integers(0, 4), st.floats(0, 1)), min_size=1, max_size=120
)
seeds = pytest.mark.parametrize("seed", range(4))


def bursty(seed: int, n: int = 700, classes: int = 6) -> list[Scored]:
    """Labels that come in bursts, from more classes as time goes by; a learner that is right in 6 of 10."""
    rng = np.random.default_rng(seed)
    label, stream = 0, []
    for i in range(n):
        if rng.random() < 0.3:
            label = int(rng.integers(min(classes, 1 + i // 50)))
        right = rng.random() < 0.6
        predicted = label if right else int(rng.integers(UNKNOWN, classes))
        stream.append(Scored(predicted, label, float(rng.random())))
    return stream


def scored(stream: Stream, window: int = WINDOW, fading: float = FADING) -> Prequential:
    prequential = Prequential(window, fading)
    for one in stream:
        prequential.update([one])
    return prequential


def assert_as_river(stream: Stream) -> None:
    """After every event: accuracy in total and in the window, Cohen's kappa and log loss.

    UNKNOWN (-1) goes to River as it is: a label that is never true, so it counts as wrong.
    """
    ours = Prequential(WINDOW, FADING)
    accuracy, kappa, loss = metrics.Accuracy(), metrics.CohenKappa(), metrics.CrossEntropy()
    rolling: Any = utils.Rolling(metrics.Accuracy, window_size=WINDOW)
    for one in stream:
        ours.update([one])
        for metric in (accuracy, kappa, rolling):
            metric.update(one.actual, one.predicted)
        loss.update(one.actual, {one.actual: one.probability})
        assert ours.figures("cumulative").accuracy == pytest.approx(accuracy.get(), abs=1e-12)
        assert ours.figures("window").accuracy == pytest.approx(rolling.get(), abs=1e-12)
        assert ours.kappa() == pytest.approx(kappa.get(), abs=1e-9)
        assert ours.loss() == pytest.approx(loss.get(), abs=1e-9)


@WHOLE_STREAMS
@given(streams)
def test_accuracy_kappa_and_loss_are_rivers(stream: Stream) -> None:
    assert_as_river(stream)


@seeds
def test_accuracy_kappa_and_loss_are_rivers_on_bursts(seed: int) -> None:
    assert_as_river(bursty(seed))


def assert_baselines_as_river(stream: Stream) -> int:
    """No change and majority against River's dummies, predict before learn; returns how often was a tie.

    Where several labels are the most frequent, River takes the one that appeared first and we the one that
    reached the count first. There, and only there, the label is ours, once it is seen to be one of them.
    """
    ours = Prequential(WINDOW, FADING)
    no_change, prior = dummy.NoChangeClassifier(), dummy.PriorClassifier()
    accuracies = {name: metrics.Accuracy() for name in ("majority", "no_change")}
    rolling: dict[str, Any] = {
        name: utils.Rolling(metrics.Accuracy, window_size=WINDOW) for name in accuracies
    }
    counts: Counter[int] = Counter()
    reached: dict[int, int] = {}  # by count: the label that reached it first
    ties = 0
    for one in stream:
        answers = {"majority": prior.predict_one({}), "no_change": no_change.predict_one({})}
        top = [label for label, n in counts.items() if n == max(counts.values())]
        if len(top) > 1:
            ties += 1
            assert ours.majority in top
            assert ours.majority == reached[max(counts.values())]
            answers["majority"] = ours.majority
        ours.update([one])
        counts[one.actual] += 1
        reached.setdefault(counts[one.actual], one.actual)
        prior.learn_one({}, one.actual)
        no_change.learn_one({}, one.actual)
        for name, answer in answers.items():
            answer = UNKNOWN if answer is None else answer  # nothing learned yet: wrong, as for us
            accuracies[name].update(one.actual, answer)
            rolling[name].update(one.actual, answer)
            for kind, metric in (("cumulative", accuracies[name]), ("window", rolling[name])):
                assert getattr(ours.figures(kind), name) == pytest.approx(metric.get(), abs=1e-12)
    return ties


@WHOLE_STREAMS
@given(streams)
def test_baselines_are_rivers_dummies(stream: Stream) -> None:
    assert_baselines_as_river(stream)


@seeds
def test_baselines_are_rivers_dummies_on_bursts(seed: int) -> None:
    assert_baselines_as_river(bursty(seed))


@seeds
def test_baselines_are_rivers_where_there_is_no_tie(seed: int) -> None:
    """Label 0 always leads: every answer of the majority baseline is River's own."""
    rng = np.random.default_rng(seed)
    labels = [0, 0, 0, *(int(label) for label in rng.choice(4, 400, p=[0.7, 0.1, 0.1, 0.1]))]
    assert assert_baselines_as_river([Scored(0, label, 0.5) for label in labels]) == 0


@seeds
def test_fading_is_the_weighted_mean(seed: int) -> None:
    stream = bursty(seed, 300)
    ours = scored(stream)
    weights = [FADING ** (len(stream) - 1 - i) for i in range(len(stream))]

    def mean(values: Sequence[float]) -> float:
        return math.fsum(w * v for w, v in zip(weights, values, strict=True)) / math.fsum(weights)

    labels = [one.actual for one in stream]
    figures = ours.figures("fading")
    assert figures.accuracy == pytest.approx(mean([one.predicted == one.actual for one in stream]))
    assert figures.no_change == pytest.approx(
        mean([i > 0 and labels[i - 1] == y for i, y in enumerate(labels)])
    )
    assert ours.fading_loss() == pytest.approx(
        mean([-math.log(max(one.probability, LEAST)) for one in stream])
    )


@WHOLE_STREAMS
@given(streams)
def test_without_fading_it_is_the_cumulative_mean(stream: Stream) -> None:
    ours = scored(stream, fading=1.0)
    assert ours.figures("fading") == ours.figures("cumulative")
    assert ours.fading_loss() == pytest.approx(ours.loss())


@WHOLE_STREAMS
@given(streams, st.integers(1, 130))
def test_the_window_is_the_last_events(stream: Stream, window: int) -> None:
    ours, recent = scored(stream, window), stream[-window:]
    hits = [one.predicted == one.actual for one in recent]
    assert ours.figures("window").accuracy == pytest.approx(sum(hits) / len(recent))
    if len(stream) <= window:
        assert ours.figures("window") == ours.figures("cumulative")


@seeds
def test_kappas_follow_from_the_accuracies(seed: int) -> None:
    ours = scored(bursty(seed))
    for kind in KINDS:
        figures = ours.figures(kind)
        a, m, n = figures.accuracy, figures.majority, figures.no_change
        assert a is not None and m is not None and n is not None
        assert figures.kappa_majority == pytest.approx(1 - (1 - a) / (1 - m))
        assert figures.kappa_no_change == pytest.approx(1 - (1 - a) / (1 - n))


def carried(part: Part) -> Part:
    """The part as a checkpoint gives it back: plain values go through msgpack."""
    values = msgpack.unpackb(msgpack.packb(dict(part.values)))
    return Part({name: tensor.clone() for name, tensor in part.tensors.items()}, values)


def everything(one: Prequential) -> list[object]:
    return [*(one.figures(kind) for kind in KINDS), one.kappa(), one.loss(), one.fading_loss(), vars(one)]


@WHOLE_STREAMS
@given(streams, streams, st.integers(1, 150))
def test_state_goes_there_and_back(before: Stream, after: Stream, window: int) -> None:
    ours, twin = scored(before, window), Prequential(window, FADING)
    part = ours.part()
    twin.load(carried(part))
    assert everything(twin) == everything(ours)
    for one in after:
        ours.update([one])
        twin.update([one])
        assert everything(twin) == everything(ours)
    later = Prequential(window, FADING)
    later.load(part)  # the part is a copy: it is still that of the moment at which it was taken
    assert everything(later) == everything(scored(before, window))


@pytest.mark.parametrize("n", [WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW + 7])
def test_state_of_a_window_that_has_wrapped_around(n: int) -> None:
    stream = bursty(1, n + WINDOW + 3)
    twin = Prequential(WINDOW, FADING)
    twin.load(carried(scored(stream[:n]).part()))
    for i in range(n, len(stream)):
        twin.update([stream[i]])
        recent = stream[: i + 1][-WINDOW:]
        hits = sum(one.predicted == one.actual for one in recent)
        assert twin.figures("window").accuracy == hits / len(recent)


def test_a_state_of_before_the_first_event() -> None:
    fresh, twin = Prequential(WINDOW, FADING), Prequential(WINDOW, FADING)
    twin.load(carried(fresh.part()))
    assert everything(twin) == everything(fresh)
    assert (fresh.kappa(), fresh.loss(), fresh.fading_loss()) == (None, None, None)
    assert [fresh.figures(kind).kappa_majority for kind in KINDS] == [None] * 3


def test_the_state_of_a_very_long_stream_fits_msgpack() -> None:
    """6e9 events: two months at a thousand a second. The sum behind Cohen's kappa is past 64 bits."""
    ours, twin = scored([Scored(0, 0, 0.5)]), Prequential(WINDOW, FADING)
    n = 6_000_000_000
    ours.events, ours.correct = n, [n, n, n]
    ours.actual, ours.predicted, ours.hits, ours.agreement = [n], [n], [n], n * n
    assert ours.agreement > 2**64
    twin.load(carried(ours.part()))
    assert everything(twin) == everything(ours)


def test_a_probability_that_is_no_number_does_not_stay() -> None:
    ours = scored([Scored(0, 0, math.nan), Scored(0, 0, 1.0), Scored(0, 0, 0.0)])
    assert ours.loss() == pytest.approx(-2 * math.log(LEAST) / 3)
    assert math.isfinite(ours.fading_loss() or math.nan)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="window holds 20 events, not 21"):
        Prequential(WINDOW + 1, FADING).load(scored(bursty(0, 5)).part())
    with pytest.raises(ValueError, match="kind must be one of"):
        scored(bursty(0, 5)).figures("weekly")
