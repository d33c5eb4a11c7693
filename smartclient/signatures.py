"""How the verbs and Session look to a type checker; at run time there is nothing here but requests' own Session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import requests

if TYPE_CHECKING:
    from typing import Any, Literal, Unpack, overload

    from requests import Response

    from smartclient.keywords import (
        Auth,
        Cert,
        Cookies,
        Data,
        Files,
        GetKeywords,
        Headers,
        Hooks,
        Params,
        PostKeywords,
        Proxies,
        PutKeywords,
        RequestKeywords,
        Timeout,
        Url,
        Verify,
    )
    from smartclient.parallel import CallFuture

    class TypedSession(requests.Session):
        """Each method twice: with `background=True` it gives a future."""

        @overload
        def request(
            self,
            method: str | bytes,
            url: Url,
            params: Params = None,
            data: Data = None,
            headers: Headers = None,
            cookies: Cookies = None,
            files: Files = None,
            auth: Auth = None,
            timeout: Timeout = None,
            allow_redirects: bool = True,
            proxies: Proxies = None,
            hooks: Hooks = None,
            stream: bool | None = None,
            verify: Verify = None,
            cert: Cert = None,
            json: Any = None,
            *,
            deadline: float | None = None,
            retries: int | None = None,
            idempotency_key: str | bool | None = None,
            fallback: Any = None,
            hedge: float | bool | None = None,
            background: Literal[True],
        ) -> CallFuture[Response]: ...
        @overload
        def request(
            self,
            method: str | bytes,
            url: Url,
            params: Params = None,
            data: Data = None,
            headers: Headers = None,
            cookies: Cookies = None,
            files: Files = None,
            auth: Auth = None,
            timeout: Timeout = None,
            allow_redirects: bool = True,
            proxies: Proxies = None,
            hooks: Hooks = None,
            stream: bool | None = None,
            verify: Verify = None,
            cert: Cert = None,
            json: Any = None,
            *,
            deadline: float | None = None,
            retries: int | None = None,
            idempotency_key: str | bool | None = None,
            fallback: Any = None,
            hedge: float | bool | None = None,
            background: Literal[False] = False,
        ) -> Response: ...
        def request(self, *args: Any, **keywords: Any) -> Any: ...

        @overload
        def get(
            self, url: Url, params: Params = None, *, background: Literal[True], **keywords: Unpack[GetKeywords]
        ) -> CallFuture[Response]: ...
        @overload
        def get(
            self,
            url: Url,
            params: Params = None,
            *,
            background: Literal[False] = False,
            **keywords: Unpack[GetKeywords],
        ) -> Response: ...
        def get(self, *args: Any, **keywords: Any) -> Any: ...

        @overload
        def options(
            self, url: Url, *, background: Literal[True], **keywords: Unpack[RequestKeywords]
        ) -> CallFuture[Response]: ...
        @overload
        def options(
            self, url: Url, *, background: Literal[False] = False, **keywords: Unpack[RequestKeywords]
        ) -> Response: ...
        def options(self, *args: Any, **keywords: Any) -> Any: ...

        @overload
        def head(
            self, url: Url, *, background: Literal[True], **keywords: Unpack[RequestKeywords]
        ) -> CallFuture[Response]: ...
        @overload
        def head(
            self, url: Url, *, background: Literal[False] = False, **keywords: Unpack[RequestKeywords]
        ) -> Response: ...
        def head(self, *args: Any, **keywords: Any) -> Any: ...

        @overload
        def post(
            self,
            url: Url,
            data: Data = None,
            json: Any = None,
            *,
            background: Literal[True],
            **keywords: Unpack[PostKeywords],
        ) -> CallFuture[Response]: ...
        @overload
        def post(
            self,
            url: Url,
            data: Data = None,
            json: Any = None,
            *,
            background: Literal[False] = False,
            **keywords: Unpack[PostKeywords],
        ) -> Response: ...
        def post(self, *args: Any, **keywords: Any) -> Any: ...

        @overload
        def put(
            self, url: Url, data: Data = None, *, background: Literal[True], **keywords: Unpack[PutKeywords]
        ) -> CallFuture[Response]: ...
        @overload
        def put(
            self, url: Url, data: Data = None, *, background: Literal[False] = False, **keywords: Unpack[PutKeywords]
        ) -> Response: ...
        def put(self, *args: Any, **keywords: Any) -> Any: ...

        @overload
        def patch(
            self, url: Url, data: Data = None, *, background: Literal[True], **keywords: Unpack[PutKeywords]
        ) -> CallFuture[Response]: ...
        @overload
        def patch(
            self, url: Url, data: Data = None, *, background: Literal[False] = False, **keywords: Unpack[PutKeywords]
        ) -> Response: ...
        def patch(self, *args: Any, **keywords: Any) -> Any: ...

        @overload
        def delete(
            self, url: Url, *, background: Literal[True], **keywords: Unpack[RequestKeywords]
        ) -> CallFuture[Response]: ...
        @overload
        def delete(
            self, url: Url, *, background: Literal[False] = False, **keywords: Unpack[RequestKeywords]
        ) -> Response: ...
        def delete(self, *args: Any, **keywords: Any) -> Any: ...

else:
    TypedSession = requests.Session
