"""Text of others is shown as a terminal may show it, wherever it is printed."""

import io
import logging

import pytest

from looplab.errors import ConfigurationError, Problem, Refused, shown
from looplab.loggers import Console
from looplab.protocols import LayerRow, Summary
from looplab.runs import crash_report, terminal

RAW = ["\x1b]0;title\x07", "\x1b[2J", "\r", "\x00", "\u202e", "\u2066", "\x9b31m", "\ud800", "\u200b", "\x7f"]


@pytest.mark.parametrize("raw", RAW, ids=ascii)
def test_it_is_escaped(raw):
    text = shown(f"a{raw}b\n\tc")
    assert raw not in text and text.startswith("a\\") and text.endswith("b\n\tc")
    assert shown(text) == text
    assert terminal.printable(f"a{raw}\n\tb").isprintable()
    assert raw not in str(ConfigurationError(raw)) and raw not in str(Refused([Problem(raw, raw)]))
    assert raw not in terminal.as_text(ValueError(raw))[0]


def test_what_can_be_read_stays():
    for text in ("", "läufe/a b\n\tc", "学習 ✓ 😀", "e\u0301"):
        assert shown(text) == text


def test_the_console_and_its_log(tmp_path, capsys):
    log = tmp_path / "log.txt"
    raw = "".join(set(RAW) - {"\ud800"})
    with Console(2, log) as console:
        console.say(f"said {raw}")
        logging.getLogger("looplab").warning("warned %s", raw)
        console.begin(Summary(((raw, raw),), (LayerRow(raw, raw, "Dense", 1, 1, 4),), 0, 1, 1, None))
        console.progress(1, 1, lambda: {raw: 1.0})
    for text in (capsys.readouterr().out, log.read_text("utf-8")):
        assert "said \\" in text
        assert all(character.isprintable() or character == "\n" for character in text)


def test_a_report_of_a_crash(tmp_path):
    error = ValueError("\x1b[2J")
    crash_report.write(tmp_path, error, {"reason": "ValueError: \x1b[2J", "exit_code": 1})
    assert "\x1b" not in (tmp_path / crash_report.REPORT).read_text("utf-8")


def test_markup_of_rich_in_a_name_is_text(capsys):
    with Console(2) as console:
        console.begin(
            Summary(
                (("data", "[dim]"),),
                (LayerRow("[bold]model[/]", "[red]layer", "Dense", 1, 1, 4),),
                0,
                1,
                1,
                None,
            )
        )
    said = capsys.readouterr().out
    assert "[bold]model[/]" in said and "[red]layer" in said and "[dim]" in said


def test_a_handler_that_prints_while_the_stream_is_written_out_is_heard(tmp_path):
    path = tmp_path / "out"
    with path.open("w") as file:
        out = terminal.Lasting(file)

        class Entered(type(file.buffer.raw)):
            """Prints again from within, as a signal's handler does."""

            def write(self, data):
                if not done:
                    done.append(True)
                    print("handler", file=out, flush=True)
                return super().write(data)

        done = []
        with Entered(path, "w") as raw, io.TextIOWrapper(io.BufferedWriter(raw), "utf-8") as stream:
            out = terminal.Lasting(stream)
            print("main", file=out, flush=True)
    assert sorted(path.read_text().split()) == ["handler", "main"]
