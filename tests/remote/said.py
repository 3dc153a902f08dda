"""What a command that could not be done said."""

from __future__ import annotations

from tests.conftest import Ran
from tests.remote.clouds import AZURE_KEY
from tests.remote.s3_server import KEYS


def plain(ran: Ran) -> str:
    """Its error, which is short, plain, and has no secret in it."""
    assert ran.code == 2, ran
    assert ran.out == ""
    assert "Traceback" not in ran.err
    assert 1 <= len(ran.err.splitlines()) <= 2, ran.err
    for secret in (KEYS["AWS_SECRET_ACCESS_KEY"], AZURE_KEY[:20]):
        assert secret not in ran.err
    return ran.err
