"""What is not to be shown."""

import pytest

from looplab.secret import redacted, redacted_word


def test_secrets_are_replaced_and_nothing_else():
    content = {
        "db": [{"password": "hidden", "user": "me", "passwords": 3}],
        "api_key": "${oc.env:KEY}",
        "access_key": "Bearer ${oc.env:KEY}",
        "hf_token": 123456,
        "secret": ["hidden", {"a": "hidden"}],
        "pad_token": "<pad>",
        "tokens": "8",
        "token": None,
        "use": {"credentials": True},
    }
    assert redacted(content) == {
        **content,
        "db": [{"password": "***", "user": "me", "passwords": 3}],
        "hf_token": "***",
        "secret": ["***", {"a": "***"}],
    }


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("+model.api_key=hidden", "+model.api_key=***"),
        ("model.api_key=${oc.env:KEY}", "model.api_key=${oc.env:KEY}"),
        ("+x={_target_: mine.Key, api_key: hidden, n: 3}", "+x={_target_: mine.Key, api_key: ***, n: 3}"),
        ("+x=[{password: 'a b', n: 3}]", "+x=[{password: ***, n: 3}]"),
        ("+x={api_key: ${oc.env:KEY}}", "+x={api_key: ${oc.env:KEY}}"),
        ("epochs=3", "epochs=3"),
        ("--cfg", "--cfg"),
    ],
)  # fmt: skip
def test_words_are_shown_without_them(word, shown):
    assert redacted_word(word) == shown
