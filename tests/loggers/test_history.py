"""What `fit` returns."""

import math
import xml.etree.ElementTree as ElementTree

import pytest

from looplab.loggers import History
from looplab.protocols import Record


def history_of(*records):
    history = History()
    for record in records:
        history.write(Record(*record))
    return history


def test_epochs_by_the_names_that_keras_gives_them():
    history = history_of(
        (4, 1, "validation", {"epoch_loss": 3.0}),
        (4, 1, "train", {"epoch_loss": 2.0, "learning_rate": 0.1}),
        (8, 2, "validation", {"epoch_loss": 1.5}),
        (8, 2, "test", {"epoch_loss": 1.6}),
        (8, 2, "train", {"epoch_loss": 1.0, "learning_rate": 0.05}),
    )
    assert history.epoch == [0, 1]
    assert list(history.history.items()) == [  # training first
        ("loss", [2.0, 1.0]),
        ("learning_rate", [0.1, 0.05]),
        ("val_loss", [3.0, 1.5]),
        ("test_loss", [1.6]),
    ]


def test_the_values_of_single_steps_are_left_out():
    history = history_of((2, 1, "train", {"loss": 9.0}), (4, 1, "train", {"epoch_loss": 2.0}))
    assert (history.epoch, history.history) == ([0], {"loss": [2.0]})


def test_the_last_evaluation_within_an_epoch_stands():
    history = history_of(
        (2, 1, "validation", {"epoch_loss": 3.0}),
        (4, 1, "validation", {"epoch_loss": 2.0}),
        (4, 1, "train", {"epoch_loss": 1.0}),
    )
    assert (history.epoch, history.history) == ([0], {"loss": [1.0], "val_loss": [2.0]})


def test_an_epoch_that_went_on_after_a_stop_counts_once_as_a_whole():
    history = history_of((2, 1, "train", {"epoch_loss": 3.0}), (4, 1, "train", {"epoch_loss": 2.0}))
    assert (history.epoch, history.history) == ([0], {"loss": [2.0]})


@pytest.mark.slow
def test_a_run_that_continues_has_its_earlier_epochs(train, tmp_path):
    whole = train(tmp_path / "whole", epochs=3)
    train(tmp_path / "parts", epochs=1)
    parts = train(tmp_path / "parts", epochs=3)
    assert whole.epoch == parts.epoch == [0, 1, 2]
    assert set(whole.history) >= {"loss", "error", "val_loss", "val_error"}
    assert parts.history == whole.history


SVG = "{http://www.w3.org/2000/svg}"


def page(shown):
    return ElementTree.fromstring(shown._repr_html_())


def filled(values, split="train", name="epoch_loss"):
    history = History()
    for epoch, value in enumerate(values, start=1):
        history.write(Record(10 * epoch, epoch, split, {name: value}))
    return history


def test_a_history_shows_its_last_values_in_a_line_and_its_curves_on_a_page():
    history = filled([3.0, 1.0, 2.0])
    for epoch, value in ((1, 4.0), (3, 0.5)):
        history.write(Record(10 * epoch, epoch, "validation", {"epoch_loss": value}))
    history.write(Record(30, 3, "hard", {"epoch_loss": 7.0}))
    assert repr(history) == "History(3 epochs: loss 2.0000, val_loss 0.5000, hard_loss 7.0000)"
    shown = page(history)
    (picture,) = shown.iter(f"{SVG}svg")
    assert [span.text for span in picture.iter(f"{SVG}tspan")] == ["train", "validation", "hard"]
    train, validation = (line.get("points").split() for line in picture.iter(f"{SVG}polyline"))
    assert (len(train), len(validation)) == (3, 2)
    assert train[0].split(",")[0] == validation[0].split(",")[0]  # by epoch, not by place
    assert len(list(picture.iter(f"{SVG}circle"))) == 1  # evaluated once
    rows = [[cell.text for cell in row] for row in shown.find(".//tbody")]
    assert rows[0] == ["loss", "2.0000", "1.0000", "2", "3.0000", "1"]
    assert rows[1] == ["val_loss", "0.5000", "0.5000", "3", "4.0000", "1"]


def test_a_history_without_epochs_or_with_one_is_shown():
    assert repr(History()) == "History(0 epochs)"
    assert list(page(History()).iter(f"{SVG}svg")) == []
    assert repr(filled([1.0])) == "History(1 epoch: loss 1.0000)"
    assert len(list(page(filled([1.0])).iter(f"{SVG}circle"))) == 1


@pytest.mark.parametrize(
    "values",
    [[1.0, math.nan, 2.0, 3.0], [math.inf, 1.0], [-1e308, 1e308], [math.nan], [5e-324, 0.0], [2.0] * 3],
)
def test_any_numbers_are_drawn_within_the_picture(values):
    (picture,) = page(filled(values)).iter(f"{SVG}svg")
    points = [point for line in picture.iter(f"{SVG}polyline") for point in line.get("points").split()]
    for x, y in (map(float, point.split(",")) for point in points):
        assert 0 <= x <= 300 and 0 <= y <= 180
    drawn = len(points) + len(list(picture.iter(f"{SVG}circle")))
    assert drawn == sum(map(math.isfinite, values))


def test_names_are_text_and_not_markup():
    name = 'epoch_<script>alert("1")</script>&\x1b[31m\x00'
    found = filled([1.0, 2.0], name=name)._repr_html_()
    assert "<script" not in found and "\x1b" not in found and "\x00" not in found
    assert '<script>alert("1")</script>&' in "".join(ElementTree.fromstring(found).itertext())


def test_many_names_and_many_epochs_stay_small():
    history = History()
    for epoch in range(1, 2_001):
        history.write(Record(epoch, epoch, "train", {"epoch_loss": 1 / epoch}))
    for number in range(40):
        history.write(Record(2_000, 2_000, "train", {f"epoch_metric_{number}": 1.0}))
    found = history._repr_html_()
    assert len(found) < 40_000
    assert "29 more are in the table" in found and "metric_39" in found
    assert repr(history).endswith(", 29 more)") and len(repr(history)) < 400
