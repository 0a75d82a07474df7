"""The page that a person opens: real TensorBoard, looked at with a real browser."""

import contextlib
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

import looplab
from tests.process import HANGS

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="chromium or chromedriver is not installed (see .ci/run)"
)

READ_CARDS = """
const texts = (card, selector) => [...card.querySelectorAll(selector)].map(found => found.textContent.trim());
return [...document.querySelectorAll("scalar-card")].map(card => ({
    tag: card.querySelector(".tag").title,
    ticks: texts(card, ".x-axis .minor text"),
    headings: texts(card, "tb-data-table-header"),
    rows: [...card.querySelectorAll("tb-data-table-content-row")].map(row => ({
        color: row.querySelector(".row-circle span").style.backgroundColor,
        cells: texts(row, ".cell"),
    })),
}));
"""


@pytest.fixture
def browser(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")  # selenium's own connection to the driver
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for switch in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "hide-scrollbars",
        "window-size=1300,900",
        f"user-data-dir={tmp_path / 'browser'}",
    ):
        options.add_argument(f"--{switch}")
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_page_load_timeout(HANGS)
    driver.set_script_timeout(HANGS)
    yield driver
    driver.quit()


def pixels(element, color):
    """How many pixels of an element have a CSS color, or nearly."""
    picture = tf.io.decode_png(element.screenshot_as_png, channels=3).numpy().astype(int)
    wanted = [int(part) for part in re.findall(r"\d+", color)[:3]]
    return int((abs(picture - wanted).max(axis=-1) < 12).sum())


@pytest.mark.slow
def test_training_and_validation_are_on_one_chart_by_step(train, tensorboard, browser, tmp_path):
    history = train(tmp_path / "run", epochs=5, verbose=0).history
    server = tensorboard(tmp_path / "run")
    for split in ("train", "validation"):
        assert server.points(f"tensorboard/{split}", "epoch_loss", 20)
    browser.get(f"{server.address}/?tagFilter=^epoch_loss$&smoothing=0#timeseries")

    def with_both_rows(browser):
        cards = browser.execute_script(READ_CARDS)
        return cards if [len(card["rows"]) for card in cards] == [2] else None

    cards = WebDriverWait(browser, HANGS).until(with_both_rows)

    (card,) = cards
    assert card["tag"] == "epoch_loss"
    columns = [card["headings"].index(name) for name in ("Run", "Value", "Step")]
    shown = {
        row["cells"][columns[0]]: [row["cells"][column] for column in columns[1:]] for row in card["rows"]
    }
    assert set(shown) == {"tensorboard/train", "tensorboard/validation"}
    for run, name in (("train", "loss"), ("validation", "val_loss")):
        value, step = shown[f"tensorboard/{run}"]
        assert float(value) == pytest.approx(history[name][-1], rel=1e-3)
        assert int(step) == 20
    assert 5 < max(map(int, card["ticks"])) <= 25  # 20 steps; not 5 epochs, not a time

    chart = browser.find_element(By.CSS_SELECTOR, "scalar-card .series-view")
    for row in card["rows"]:  # both curves are drawn
        WebDriverWait(browser, HANGS).until(lambda _, row=row: pixels(chart, row["color"]) > 50)
    assert len({row["color"] for row in card["rows"]}) == 2
    browser.save_screenshot(tmp_path / "page.png")


READ_OPEN = """
const cards = [...document.querySelectorAll("scalar-card, image-card")];
return {
    tab: document.querySelector("[role=tab][aria-selected=true]").innerText,
    titles: cards.map(card => card.querySelector(".tag").title || card.querySelector(".tag-path").title),
    drawn: cards.flatMap(card => [...card.querySelectorAll("tb-data-table-content-row, img")]).length,
};
"""
SEEN = [
    "(1) epochs/error",
    "(1) epochs/loss",
    "(2) steps/gradient_norm",
    "(2) steps/learning_rate",
    "(2) steps/loss",
    "(2) steps/parameter_norm",
    "(2) steps/samples",
    "(2) steps/steps_per_second",
]


def test_without_a_click_the_page_shows_both_splits_rate_norms_speed_and_samples(
    train, tensorboard, browser, tmp_path
):
    samples = looplab.callbacks.Samples(np.zeros((4, 1)), render=lambda outputs: outputs.reshape(1, 2, 2, 1))
    callbacks = [looplab.callbacks.Norms("1st"), samples]
    train(tmp_path / "run", epochs=5, verbose=0, callbacks=callbacks)
    server = tensorboard(tmp_path / "run")
    for run, tag in {"train": "loss", "validation": "epoch_loss", "system": "time/step"}.items():
        assert server.points(f"tensorboard/{run}", tag, 20)

    def opened(browser):
        browser.get("about:blank")
        browser.get(f"{server.address}/")
        screen = {"width": 1900, "height": 1600, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        with contextlib.suppress(TimeoutException):
            return WebDriverWait(browser, 20).until(all_drawn)

    def all_drawn(browser):
        seen = browser.execute_script(READ_OPEN)
        return seen if seen["drawn"] >= len(SEEN) + 2 else None

    seen = WebDriverWait(browser, HANGS).until(opened)
    assert seen["tab"] == "TIME SERIES"
    assert seen["titles"] == SEEN
    browser.save_screenshot(tmp_path / "page.png")
