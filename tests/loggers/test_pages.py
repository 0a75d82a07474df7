"""The pages of TensorBoard besides its charts: really served, opened in a browser, and read there."""

import keras
import numpy as np
import pytest
from selenium.webdriver.support.wait import WebDriverWait

import looplab
from looplab import summary
from looplab.metrics import ConfusionMatrix, PRCurve
from tests.loggers.test_browser import CHROMIUM, DRIVER, browser, pytestmark  # noqa: F401

CLASSES = 3
# Pages are made of nested shadow trees, which document.body.innerText does not enter.
READ = """
const texts = [];
function read(node) {
    if (node.nodeType == Node.TEXT_NODE && node.textContent.trim()) texts.push(node.textContent.trim());
    if (["STYLE", "SCRIPT", "TEMPLATE", "DOM-MODULE"].includes(node.nodeName)) return;
    for (const child of node.childNodes) read(child);
    if (node.shadowRoot) read(node.shadowRoot);
}
read(document.body);
return texts;
"""
COUNT = """
let found = 0;
function look(node) {
    found += node.querySelectorAll(arguments[0] || SELECTOR).length;
    for (const inner of node.querySelectorAll("*")) if (inner.shadowRoot) look(inner.shadowRoot);
}
look(document);
return found;
"""


class Classifier(looplab.Trainer):
    def compute_loss(self, batch, training):
        if training:
            summary.image("inputs", batch[0], every="4st")
            summary.histogram("values", batch[0], every="4st")
        return super().compute_loss(batch, training)


@pytest.fixture(scope="module")
def server(tmp_path_factory, tensorboard):
    """Two jobs of a sweep, of a tiny classifier of pictures."""
    folder = tmp_path_factory.mktemp("sweep")
    rng = np.random.default_rng(0)
    x, y = rng.random((24, 6, 6, 1), "float32"), rng.integers(0, CLASSES, 24)
    for job, rate in enumerate((0.5, 0.125)):
        layers = [keras.layers.Flatten(), keras.layers.Dense(CLASSES, "softmax", name="classes")]
        trainer = Classifier(
            lambda layers=layers: keras.Sequential([keras.Input([6, 6, 1]), *layers]),
            keras.optimizers.SGD(rate),
            "sparse_categorical_crossentropy",
            ["accuracy", ConfusionMatrix(CLASSES), PRCurve(CLASSES)],
            run_dir=folder / f"{job}",
            hyperparameters={"optimizer": {"learning_rate": rate}, "data": {"source": "random"}},
        )
        trainer.fit(x, y, validation_data=(x, y), batch_size=6, epochs=2, verbose=0)
    return tensorboard(folder)


def page(browser, server, name, *expected):  # noqa: F811
    """Opens a page and waits until it says all that is expected; returns all that it says."""
    browser.get("about:blank")
    browser.get(f"{server.address}/#{name}")

    def said(browser):
        texts = browser.execute_script(READ)
        return texts if all(any(words in text for text in texts) for words in expected) else None

    return WebDriverWait(browser, 60).until(said, f"{name} does not say {expected}")


def count(browser, selector):  # noqa: F811
    return browser.execute_script(COUNT.replace("arguments[0] || SELECTOR", repr(selector)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hparams", ["optimizer.learning_rate", "0.50000", "0.12500", "validation.epoch_accuracy"]),
        ("text", ["configuration", "learning_rate: 0.5", "confusion_matrix/counts"]),
        ("graphs", ["sequential"]),
        ("images", ["confusion_matrix", "inputs", "0/tensorboard/validation/media"]),
        ("histograms", ["values", "1/tensorboard/train/media"]),
        ("pr_curves", ["pr_curve", "pr_curve/0", "is at"]),
        ("custom_scalars", ["Training and validation, by epoch", "accuracy", "Matches (4)"]),
    ],
)
def test_a_page_shows_what_was_logged(server, browser, tmp_path, name, expected):  # noqa: F811
    page(browser, server, name, *expected)
    if name == "images":
        WebDriverWait(browser, 30).until(lambda browser: count(browser, "img") >= 4)
    browser.save_screenshot(tmp_path / f"{name}.png")
