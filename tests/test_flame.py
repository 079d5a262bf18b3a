"""Flame graphs: every frame as wide as its share of the samples."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from ops.bench.flame import below, boxes, called, svg, tree

STACKS = [
    "main (x.py);Learner.learn (streamlearn/learner.py);step (streamlearn/trainer.py);dot (numpy/a.py) 6",
    "main (x.py);Learner.learn (streamlearn/learner.py);step (streamlearn/trainer.py) 2",
    "main (x.py);Learner.learn (streamlearn/learner.py);<lambda> (streamlearn/learner.py) 2",
    "main (x.py);print (x.py) 90",
]


def test_a_frame_has_the_samples_of_all_that_it_calls() -> None:
    root = tree(STACKS)
    assert root.samples == root.calls["main (x.py)"].samples == 100
    learn = below(root, "learn")
    assert {called(name): frame.samples for name, frame in learn.calls.items()} == {"step": 8, "<lambda>": 2}
    assert below(root, "nobody") is root


def test_boxes_lie_beside_each_other_below_their_callers() -> None:
    learn = below(tree(STACKS), "learn")
    names, lefts, depths, shares = zip(*boxes(learn, 0, 0, 10), strict=True)
    assert [called(name) for name in names] == ["step", "dot", "<lambda>"]
    assert lefts == pytest.approx((0, 0, 0.8))
    assert depths == (0, 1, 0)
    assert shares == pytest.approx((0.8, 0.6, 0.2))
    # Too narrow to be seen is not drawn.
    assert list(boxes(learn, 0, 0, 10**6)) == []


def test_the_picture_says_every_share() -> None:
    page = ElementTree.fromstring(svg(below(tree(STACKS), "learn"), "a < b"))
    told = [title.text for title in page.iter("{http://www.w3.org/2000/svg}title")]
    assert told == [
        "step (streamlearn/trainer.py): 80.0 %",
        "dot (numpy/a.py): 60.0 %",
        "<lambda> (streamlearn/learner.py): 20.0 %",
    ]
