"""What a server echoes: no secret and no control character of it reaches a terminal."""

from __future__ import annotations

import pytest

from inspector.redaction import redact_secrets, traceback_text

SECRET = "never_a+real=secret0"  # noqa: S105 - none


@pytest.mark.parametrize(
    "echo",
    [
        f"Authorization: AWS4-HMAC-SHA256 Credential=AKIA/x, Signature={SECRET}",
        f"{{'Authorization': 'Bearer {SECRET}', 'Host': 'x'}}",
        f"x-amz-security-token: {SECRET}",
        f'"X-Amz-Signature": "{SECRET}"',
        f"<StringToSign>AWS4\n20260101\n{SECRET}</StringToSign>",
        f"<CanonicalRequest>GET\n{SECRET}",
        f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={SECRET};",
        f"https://h/p?sig={SECRET}",
        f"https://user:{SECRET}@h/p",
        f"it was signed with {SECRET}, it says",
    ],
)
def test_no_echo_of_a_secret(echo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "signed with" in echo:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert SECRET not in redact_secrets(echo)
    try:
        raise OSError(echo)
    except OSError as error:
        assert SECRET not in traceback_text(error)


def test_words_stay() -> None:
    for text in ("KeyError: 'a.token_embedding.weight'", "the signature does not match", "a=1"):
        assert redact_secrets(text) == text


def test_a_traceback_holds_no_control_character() -> None:
    try:
        raise OSError("\x1b]0;owned\x07 \x9b2J \ud800 second\nline")
    except OSError as error:
        said = traceback_text(error)
    assert said.count("\n") > 2
    assert all(line.isprintable() for line in said.split("\n"))
