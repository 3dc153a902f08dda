"""What a remote file system's exceptions mean: whether to try again, and words for people.

fsspec's file systems raise what their libraries raise (botocore, aiohttp, Google's, Azure's), and
none of these is imported here: exceptions are told by status, code and class name.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from http.client import IncompleteRead

from inspector.checkpoint.storage.remote.bounds import BadAnswerError, SlowAnswerError
from inspector.checkpoint.text import shorten
from inspector.redaction import redact_secrets

__all__ = [
    "NoBucketError",
    "bad_answer",
    "in_words",
    "is_past_end",
    "is_slow",
    "is_transient",
    "is_unreached",
    "not_opened",
    "status_of",
]

_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 509})
_TRANSIENT_CODES = frozenset(
    "InternalError OperationAborted RequestTimeout ServiceUnavailable SlowDown Throttling".split()
)
# Of botocore, aiohttp, azure and requests; all mean that the connection failed or stalled.
# gcsfs raises requests' ProxyError for a status of 502.
_TRANSIENT_CLASSES = frozenset(
    "HTTPClientError ClientConnectionError ClientPayloadError ServiceRequestError ProxyError "
    "ServiceResponseError FSTimeoutError IncompleteReadError ResponseStreamingError".split()
)
_UNREACHED_CLASSES = frozenset(
    "EndpointConnectionError ClientConnectorError ConnectTimeoutError ConnectionTimeoutError "
    "ReadTimeoutError ServerTimeoutError ProxyConnectionError ServiceRequestError".split()
)
_SILENT_CLASSES = frozenset(
    "ConnectTimeoutError ConnectionTimeoutError ReadTimeoutError ServerTimeoutError "
    "SocketTimeoutError".split()
)
_NO_CREDENTIALS = frozenset(
    "NoCredentialsError PartialCredentialsError ProfileNotFound CredentialRetrievalError "
    "TokenRetrievalError UnauthorizedSSOTokenError SSOTokenLoadError DefaultCredentialsError "
    "ClientAuthenticationError".split()
)
_REFUSED_CODES = {
    "AccessDenied": "these credentials may not read it",
    "AllAccessDisabled": "all access to it is disabled",
    "ExpiredToken": "the credentials have expired",
    "InvalidAccessKeyId": "the access key is not known there",
    "RequestTimeTooSkewed": "this machine's clock is wrong",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key",
    "AuthenticationFailed": "the account's key or signature is not accepted",
    "AuthorizationFailure": "these credentials may not read it",
    "AuthorizationPermissionMismatch": "these credentials may not read it",
    "NoAuthenticationInformation": "it is not public, and no credentials were given",
    "PublicAccessNotPermitted": "it is not public, and no credentials were given",
}
_OTHER_REGION = frozenset(
    ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraint")
)
#: What Azure's client raises of a listing that it cannot take apart.
_NOT_UNDERSTOOD = frozenset("DecodeError DeserializationError ParseError RecursionError".split())
_BAD_NAME = frozenset({"InvalidResourceName", "OutOfRangeInput"})
_NO_BUCKET = {"NoSuchBucket": "bucket", "ContainerNotFound": "container"}
_OF_CLOUDS = frozenset("s3 s3a gs gcs az abfs abfss adl".split())
#: How gcsfs begins the text of a 403, which has neither a class nor a code of its own.
_GCSFS_FORBIDDEN = "Forbidden: "


class NoBucketError(FileNotFoundError):
    """The bucket itself is not there; for libraries that do not say so."""


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen = 0
    at: BaseException | None = error
    while at is not None and seen < 8:
        yield at
        at, seen = at.__cause__ or at.__context__, seen + 1


def _classes(error: BaseException) -> set[str]:
    return {kind.__name__ for link in _chain(error) for kind in type(link).__mro__}


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an exception stands for, or None."""
    for link in _chain(error):
        if any(kind.__name__ == "HttpProcessingError" for kind in type(link).__mro__):
            continue  # aiohttp's, of an answer that breaks off; its code is 400 of nobody's.
        response = getattr(link, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if isinstance(status, int):
                return status
        for name in ("status", "status_code", "code"):
            status = getattr(link, name, None)
            if isinstance(status, int) and 100 <= status < 600:
                return status
        if type(link) is OSError and str(link).startswith(_GCSFS_FORBIDDEN):
            return 403
    return None


def _code_of(error: BaseException) -> str:
    """The error code of an S3 or Azure answer, or an empty string."""
    for link in _chain(error):
        response = getattr(link, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        code = getattr(link, "error_code", None)
        if isinstance(code, str) and code:
            return str(getattr(code, "value", code))
    return "NoSuchBucket" if isinstance(error, NoBucketError) else ""


def bad_answer(error: BaseException) -> BadAnswerError | None:
    """What was wrong with an answer, if that is what an exception comes of."""
    for link in _chain(error):
        if isinstance(link, BadAnswerError):
            return link
    # aiohttp gives an answer that it cannot read a status of its own.
    if type(error).__name__ == "ClientResponseError" and "HttpProcessingError" in _classes(error):
        return BadAnswerError("it does not speak HTTP")
    status = status_of(error)
    if status is not None and 300 <= status < 400 and _code_of(error) not in _OTHER_REGION:
        return BadAnswerError(f"it leads elsewhere ({status}), and is not followed")
    return None


def is_transient(error: BaseException) -> bool:
    """Whether the same request may well succeed in a moment."""
    if bad_answer(error) is not None:
        return False
    status = status_of(error)
    if status in _TRANSIENT_STATUS or _code_of(error) in _TRANSIENT_CODES:
        return True
    if (status is not None and status >= 300) or _classes(error) & _NO_CREDENTIALS:
        return False
    kinds = (TimeoutError, ConnectionError, IncompleteRead)
    if any(isinstance(link, kinds) for link in _chain(error)):
        return True
    return bool(_classes(error) & (_TRANSIENT_CLASSES | _UNREACHED_CLASSES | {"TimeoutError"}))


def is_slow(error: BaseException) -> bool:
    """Whether the server was silent, or too slow: asking for more would take as long again."""
    return isinstance(bad_answer(error), SlowAnswerError) or (
        is_transient(error) and bool(_classes(error) & _SILENT_CLASSES)
    )


def is_unreached(error: BaseException) -> bool:
    """Whether nothing answered at all: a wrong address is likelier than a bad moment."""
    return bool(_classes(error) & _UNREACHED_CLASSES) and status_of(error) is None


def is_past_end(error: BaseException) -> bool:
    """Whether a range begins after the file's end."""
    return status_of(error) == 416 or _code_of(error) == "InvalidRange"


def in_words(error: BaseException, scheme: str, endpoint: str) -> tuple[str, str]:
    """An exception as a reason and a hint (which may be empty), neither made printable yet."""
    server = endpoint or "the server"
    bad = bad_answer(error)
    if bad is not None:
        return f"{server} does not answer as it should: {bad}", "try again, or ask who runs it"
    classes, code, status = _classes(error), _code_of(error), status_of(error)
    if classes & _NO_CREDENTIALS and status is None:
        first = str(error).strip().partition("\n")[0]
        return f"no credentials for {scheme}:// ({shorten(first, 150)})", _credentials_hint(scheme)
    if code in _NO_BUCKET:
        return (
            f"there is no such {_NO_BUCKET[code]}",
            f"look at its name, and whether {server} is the right endpoint",
        )
    if code in _REFUSED_CODES or status in (401, 403):
        why = _REFUSED_CODES.get(code, "permission denied")
        return f"{why} ({code or status})", _credentials_hint(scheme)
    if code in _OTHER_REGION:
        return f"it lies in another region ({code})", "set AWS_DEFAULT_REGION to the bucket's"
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return "there is no such file or folder", ""
    if "ParamValidationError" in classes or code in _BAD_NAME:
        return "no bucket or file can have such a name", "look at the spelling"
    if status is not None and status >= 400:
        hint = "try again later" if status >= 500 else "see whether that is the right server"
        return f"{server} answers {status} {code}".rstrip(), hint
    if {"ClientSSLError", "SSLError", "ClientConnectorCertificateError"} & classes:
        return f"no secure connection to {server}: {_line(error)}", ""
    if is_unreached(error) and not {"ReadTimeoutError", "SocketTimeoutError"} & classes:
        hint = "set AWS_ENDPOINT_URL for another S3 server" if scheme in ("s3", "s3a") else ""
        return f"no connection to {server}", hint or "look at the address and the network"
    if "ResponseParserError" in classes:
        return f"{server} does not answer as an S3 server does", "look at AWS_ENDPOINT_URL"
    if _NOT_UNDERSTOOD & classes:
        return f"{server} does not answer as a {scheme}:// store does", "look at its address"
    if isinstance(error, TimeoutError) or any("Timeout" in name for name in classes):
        return f"{server} does not answer", "try again, or look at the network"
    if is_transient(error):
        return f"the connection to {server} breaks off", "try again, or look at the network"
    if isinstance(error, PermissionError) or getattr(error, "errno", 0) == errno.EACCES:
        return "permission denied", _credentials_hint(scheme)
    return _line(error), ""


def not_opened(error: BaseException, scheme: str) -> tuple[str, str]:
    """Why a file system could not be made, though nothing was asked yet; as `in_words`."""
    text = _line(error)
    if "Must provide either a connection_string or account_name" in text:  # adlfs
        return "no storage account is named", _credentials_hint(scheme)
    return text, _credentials_hint(scheme) if scheme in _OF_CLOUDS else ""


def _line(error: BaseException) -> str:
    return shorten(" ".join(redact_secrets(str(error)).split()), 300) or type(error).__name__


def _credentials_hint(scheme: str) -> str:
    if scheme in ("s3", "s3a"):
        return "set AWS_PROFILE or AWS_ACCESS_KEY_ID; for a public bucket FSSPEC_S3_ANON=true"
    if scheme in ("gs", "gcs"):
        return "gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS"
    if scheme in ("az", "abfs", "abfss", "adl"):
        return (
            "set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME and "
            "AZURE_STORAGE_ACCOUNT_KEY (or az login)"
        )
    return "see whether you may read it"
