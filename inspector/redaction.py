"""What a stranger's words may give away or do: secrets that a server echoes, control characters.

A server's error may quote the request back, with its signature, its token, or the whole string
that was signed. None of that reaches a terminal, a log or a file, `--debug` or not.
"""

from __future__ import annotations

import os
import re
import traceback

from inspector.checkpoint.text import HIDDEN, printable, redact

__all__ = ["redact_secrets", "traceback_text"]

_OF_SECRETS = re.compile(
    r"SECRET|TOKEN|PASSWORD|PASSWD|_KEY|CONNECTION_STRING|CREDENTIAL|_SAS", re.I
)
#: What is shorter is no secret, and stands in many words.
_LEAST = 8
_NAMES = (
    r"x-amz-security-token|x-amz-signature|x-amz-credential|x-auth-token|x-api-key|api-key|"
    r"set-cookie|cookie|signature|credential|accountkey|sharedaccesskey|sharedaccesssignature|"
    r"sessiontoken|secretaccesskey|accesskeyid|client_secret|refresh_token|access_token|password"
)
_AUTHORIZATION = re.compile(r"(authorization['\"]?\s*[:=]\s*)[^\n<>]+", re.I)
_FIELD = re.compile(rf"\b((?:{_NAMES})['\"]?\s*[:=]\s*['\"]?)[^\s'\"&,;<>)]+", re.I)
_ELEMENT = re.compile(
    r"(<(AWSAccessKeyId|StringToSign|StringToSignBytes|CanonicalRequest|CanonicalRequestBytes|"
    r"SignatureProvided|AuthenticationErrorDetail)>).*?(</\2>|$)",
    re.I | re.S,
)
_BEARER = re.compile(r"\b(Bearer|Basic|SharedKey|AWS4-HMAC-SHA256)\s+[^\s,'\"<>]{8,}[^\n'\"<>]*")


def redact_secrets(text: str) -> str:
    """`text` without what may be a secret: of addresses, of the environment, of requests."""
    text = redact(text)
    known = {value for name, value in os.environ.items() if _OF_SECRETS.search(name)}
    for value in sorted(known, key=len, reverse=True):
        if len(value) >= _LEAST and not os.path.exists(value):
            text = text.replace(value, HIDDEN)
    text = _ELEMENT.sub(rf"\1{HIDDEN}\3", text)
    text = _AUTHORIZATION.sub(rf"\1{HIDDEN}", text)
    text = _BEARER.sub(rf"\1 {HIDDEN}", text)
    return _FIELD.sub(rf"\1{HIDDEN}", text)


def traceback_text(error: BaseException) -> str:
    """Where an error came from, without secrets, every line of it printable."""
    said = redact_secrets("".join(traceback.format_exception(error)))
    return "".join(f"{printable(line)}\n" for line in said.splitlines())
