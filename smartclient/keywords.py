"""The keywords of every verb: those of requests, and ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

if TYPE_CHECKING:
    from http.cookiejar import CookieJar

    from _typeshed import SupportsItems, SupportsRead
    from requests import PreparedRequest, Response
    from requests.auth import AuthBase

    Url: TypeAlias = str | bytes
    _ParameterKey: TypeAlias = str | bytes | int | float
    _ParameterValue: TypeAlias = str | bytes | int | float | Iterable[str | bytes | int | float] | None
    Params: TypeAlias = (
        SupportsItems[_ParameterKey, _ParameterValue]
        | tuple[_ParameterKey, _ParameterValue]
        | Iterable[tuple[_ParameterKey, _ParameterValue]]
        | str
        | bytes
        | None
    )
    Data: TypeAlias = (
        Iterable[bytes]
        | str
        | bytes
        | SupportsRead[str | bytes]
        | list[tuple[Any, Any]]
        | tuple[tuple[Any, Any], ...]
        | Mapping[Any, Any]
        | None
    )
    Headers: TypeAlias = Mapping[str, str | bytes | None] | None
    Cookies: TypeAlias = CookieJar | MutableMapping[str, str] | None
    _FileContent: TypeAlias = SupportsRead[str | bytes] | str | bytes
    _File: TypeAlias = (
        _FileContent
        | tuple[str | None, _FileContent]
        | tuple[str | None, _FileContent, str]
        | tuple[str | None, _FileContent, str, Mapping[str, str]]
    )
    Files: TypeAlias = Mapping[str, _File] | Iterable[tuple[str, _File]] | None
    Auth: TypeAlias = tuple[str, str] | AuthBase | Callable[[PreparedRequest], PreparedRequest] | None
    Timeout: TypeAlias = float | tuple[float | None, float | None] | None
    Proxies: TypeAlias = MutableMapping[str, str] | None
    _Hook: TypeAlias = Callable[[Response], Any]
    Hooks: TypeAlias = Mapping[str, Iterable[_Hook] | _Hook] | None
    Verify: TypeAlias = bool | str | None
    Cert: TypeAlias = str | tuple[str, str] | None


class CallKeywords(TypedDict, total=False):
    """What a call takes beyond requests; see the reference of smartclient for each."""

    deadline: float | None
    retries: int | None
    idempotency_key: str | bool | None
    fallback: Any
    hedge: float | bool | None


class _Keywords(CallKeywords, total=False):
    headers: Headers
    cookies: Cookies
    files: Files
    auth: Auth
    timeout: Timeout
    allow_redirects: bool
    proxies: Proxies
    hooks: Hooks
    stream: bool | None
    verify: Verify
    cert: Cert


class RequestKeywords(_Keywords, total=False):
    """The keywords of `request`, `options`, `head` and `delete`."""

    params: Params
    data: Data
    json: Any


class GetKeywords(_Keywords, total=False):
    """The keywords of `get` beside `params`."""

    data: Data
    json: Any


class PostKeywords(_Keywords, total=False):
    """The keywords of `post` beside `data` and `json`."""

    params: Params


class PutKeywords(_Keywords, total=False):
    """The keywords of `put` and `patch` beside `data`."""

    params: Params
    json: Any


OURS = frozenset({*CallKeywords.__annotations__, "background"})
"""The names that make a call one of ours; a call with none of them and a plain URL is requests' alone."""
