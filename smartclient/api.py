"""The verbs: those of requests, each over a new Session of ours that is closed afterwards."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from requests.models import Response as Response

from smartclient import sessions as sessions

if TYPE_CHECKING:
    from typing import Any, Literal, Unpack, overload

    from smartclient.keywords import RequestKeywords, Url
    from smartclient.parallel import CallFuture
    from smartclient.signatures import TypedSession

    @overload
    def request(
        method: str | bytes, url: Url, *, background: Literal[True], **keywords: Unpack[RequestKeywords]
    ) -> CallFuture[Response]: ...
    @overload
    def request(
        method: str | bytes, url: Url, *, background: Literal[False] = False, **keywords: Unpack[RequestKeywords]
    ) -> Response: ...
    def request(*args: Any, **keywords: Any) -> Any: ...

    _session = TypedSession()
    get = _session.get
    options = _session.options
    head = _session.head
    post = _session.post
    put = _session.put
    patch = _session.patch
    delete = _session.delete

else:

    def request(method, url, **kwargs):
        """Send a request and give its Response; with `background=True` a future of it."""
        if "background" in kwargs and kwargs.pop("background"):
            from smartclient import parallel

            return parallel.start(partial(request, method, url, **kwargs))
        with sessions.Session() as session:
            return session.request(method=method, url=url, **kwargs)

    def get(url, params=None, **kwargs):
        """Send a GET request."""
        return request("get", url, params=params, **kwargs)

    def options(url, **kwargs):
        """Send an OPTIONS request."""
        return request("options", url, **kwargs)

    def head(url, **kwargs):
        """Send a HEAD request; redirects are not followed unless told."""
        kwargs.setdefault("allow_redirects", False)
        return request("head", url, **kwargs)

    def post(url, data=None, json=None, **kwargs):
        """Send a POST request."""
        return request("post", url, data=data, json=json, **kwargs)

    def put(url, data=None, **kwargs):
        """Send a PUT request."""
        return request("put", url, data=data, **kwargs)

    def patch(url, data=None, **kwargs):
        """Send a PATCH request."""
        return request("patch", url, data=data, **kwargs)

    def delete(url, **kwargs):
        """Send a DELETE request."""
        return request("delete", url, **kwargs)
