"""`app.api`: flask-restful's resources with the course of plain Flask, and `validated` for what comes in.

flask-restful's own Api replaces two methods of the app and one of the blueprint's setup, which loses before_request
hooks, error handlers and the exception that teardown should see. This one registers the resources and nothing else:
errors take the one pipeline of the service (`smartservice.errors`), replies are written by `app.json`.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import flask
import flask_restful
from flask import Blueprint, Flask, Request, Response, current_app, request
from flask.blueprints import BlueprintSetupState
from flask.views import View
from flask_restful import reqparse
from flask_restful.utils import unpack
from werkzeug.exceptions import NotAcceptable
from werkzeug.wrappers import Response as BaseResponse

from smartrealm.errors import ConfigurationError
from smartservice.validation import Validated, validated

__all__ = ["RequestParser", "SmartApi", "Validated", "validated"]

JSON = "application/json"
_SAFE_METHODS = frozenset(["GET", "HEAD", "OPTIONS"])

_View = Callable[..., Any]


class _Route(NamedTuple):
    url: str
    endpoint: str
    view: _View
    options: Mapping[str, Any]


def write_json(data: Any, status: int, headers: Mapping[str, Any] | None = None) -> Response:
    """The JSON representation: `data` through `app.json`. A Content-Type among `headers` is kept."""
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    response: Response = app.response_class(f"{app.json.dumps(data)}\n", status, mimetype=JSON)
    if headers:
        response.headers.update(headers)
    return response


def _accepted_mediatypes(_resource: Any) -> list[str]:
    """`self.mediatypes()` in a resource: what the caller accepts, best first. Holds no api alive, as the stock one does."""
    return [*request.accept_mimetypes.values(), JSON]


def _dispatch(resource: Any, **values: Any) -> Any:
    """What `Resource.dispatch_request` does for a resource without representations of its own, in half the time."""
    name = request.method.lower()
    method = getattr(resource, name, None) or (resource.get if name == "head" else None)
    assert method is not None, f"{type(resource).__name__} has no method {name}"
    decorators = resource.method_decorators
    for decorator in decorators.get(name, ()) if isinstance(decorators, Mapping) else decorators:
        method = decorator(method)
    return method(**values)


def _without_detour(resource: type[View]) -> type[View]:
    if resource.dispatch_request is not flask_restful.Resource.dispatch_request or resource.representations:  # type: ignore[attr-defined]
        return resource
    return type(resource.__name__, (resource,), {"dispatch_request": _dispatch, "__module__": resource.__module__})


class SmartApi(flask_restful.Api):  # type: ignore[misc]
    """An Api for an app or a blueprint, nested, renamed or registered twice.

    `default_mediatype` is what a caller gets who accepts none of the representations; without one, a GET is answered
    406. Requests that change something are answered in JSON then, since the change is already made.
    """

    def __init__(
        self,
        app: Flask | Blueprint | None = None,
        prefix: str = "",
        default_mediatype: str | None = None,
        decorators: Sequence[Callable[[_View], _View]] | None = None,
    ) -> None:
        super().__init__(None, prefix, default_mediatype, list(decorators or ()))
        self.representations = OrderedDict({JSON: write_json})
        self._routes: list[_Route] = []
        self._views: dict[str, tuple[type[View], _View]] = {}
        self._apps: weakref.WeakSet[Flask] = weakref.WeakSet()
        self._blueprint_is_registered = False
        self._names: weakref.WeakKeyDictionary[Flask, list[str]] = weakref.WeakKeyDictionary()
        if app is not None:
            self.app = app
            self.init_app(app)

    def init_app(self, app: Flask | Blueprint) -> None:
        """Register the resources, those added later too, with an app or with every app that registers the blueprint."""
        if isinstance(app, Blueprint):
            self.blueprint = app
            app.record(self._blueprint_registered)
            return
        self._apps.add(app)
        for route in self._routes:
            app.add_url_rule(route.url, route.endpoint, route.view, **route.options)

    def add_resource(
        self,
        resource: type[View],
        *urls: str,
        endpoint: str | None = None,
        resource_class_args: Iterable[Any] = (),
        resource_class_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Let `resource` answer under `urls`. The endpoint is the class's name in lower case unless given.

        `options` go to `Flask.add_url_rule`. Raises ConfigurationError once the app serves requests: its workers would
        differ in what they answer.
        """
        endpoint = endpoint or resource.__name__.lower()
        self._refuse_late(resource)
        view = self._view_of(resource, endpoint, tuple(resource_class_args), resource_class_kwargs or {})
        options.setdefault("methods", resource.methods)
        for url in urls:
            route = _Route(f"{self.prefix}{url}", endpoint, view, options)
            self._routes.append(route)
            for app in self._apps:
                app.add_url_rule(route.url, route.endpoint, route.view, **route.options)

    def make_response(self, data: Any, *args: Any, **kwargs: Any) -> Response:
        """`data` in the representation that the caller prefers."""
        fallback: str | None = kwargs.pop("fallback_mediatype", None) or self.default_mediatype
        representations = self.representations
        accept = request.environ.get("HTTP_ACCEPT", "*/*")
        if accept in representations:
            chosen = accept
        elif accept == "*/*":
            chosen = fallback
        else:
            chosen = request.accept_mimetypes.best_match(representations) or fallback
            if chosen is None and request.method in _SAFE_METHODS:
                raise NotAcceptable(f"This resource can be had as {', '.join(representations)}.")
        if chosen is None or chosen not in representations:
            chosen = next(iter(representations))
        write = representations[chosen]
        response: Response = write(data, *args, **kwargs)
        if write is not write_json and "Content-Type" not in (kwargs.get("headers") or ()):
            response.headers["Content-Type"] = chosen
        return response

    def url_for(self, resource: type[View], **values: Any) -> str:
        """The URL of a resource, inside of its blueprint under whichever name that was registered."""
        endpoint = next(name for name, (known, _) in self._views.items() if known is resource)
        if not self._blueprint_is_registered:
            return flask.url_for(endpoint, **values)
        names = self._names[current_app._get_current_object()]  # type: ignore[attr-defined]
        here = [name for name in names if flask.has_request_context() and name in request.blueprints]
        return flask.url_for(f"{(here or names)[0]}.{endpoint}", **values)

    def _view_of(self, resource: type[View], endpoint: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _View:
        if endpoint in self._views:
            known, view = self._views[endpoint]
            if known is not resource:
                raise ValueError(f"The endpoint {endpoint!r} is already taken by {known.__name__}; pass endpoint=...")
            return view
        resource.mediatypes = _accepted_mediatypes  # type: ignore[attr-defined]
        resource.endpoint = endpoint  # type: ignore[attr-defined]
        view = self.output(_without_detour(resource).as_view(endpoint, *args, **kwargs))
        for decorator in self.decorators:
            view = decorator(view)
        self.endpoints.add(endpoint)
        self._views[endpoint] = (resource, view)
        return view

    def output(self, resource: _View) -> _View:
        """The view around a resource's view, which writes what it returns."""

        def view(*args: Any, **kwargs: Any) -> Any:
            answer = resource(*args, **kwargs)
            if isinstance(answer, BaseResponse):
                return answer
            data, status, headers = unpack(answer)
            return self.make_response(data, status, headers=headers)

        view.__dict__.update(resource.__dict__)
        view.__name__, view.__doc__, view.__module__ = resource.__name__, resource.__doc__, resource.__module__
        return view

    def _blueprint_registered(self, state: BlueprintSetupState) -> None:
        self._blueprint_is_registered = True
        name = f"{state.name_prefix}.{state.name}".lstrip(".")
        self._names.setdefault(state.app, []).append(name)  # type: ignore[arg-type]
        for route in self._routes:
            state.add_url_rule(route.url, route.endpoint, route.view, **route.options)

    def _refuse_late(self, resource: type[View]) -> None:
        if self._blueprint_is_registered:
            raise ConfigurationError(
                f"{resource.__name__} comes too late: add it to the api before its blueprint is registered."
            )
        if any(app._got_first_request for app in self._apps):
            raise ConfigurationError(
                f"{resource.__name__} comes too late: this app serves requests already. "
                "Add resources while the app is made."
            )


class _WithoutJson:
    """A request as an argument may see it when it has no JSON body."""

    json = None

    def __init__(self, request: Request) -> None:
        self._request = request

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)


class _Argument(reqparse.Argument):  # type: ignore[misc]
    def source(self, request: Request) -> Any:
        return super().source(request if request.is_json else _WithoutJson(request))


class RequestParser(reqparse.RequestParser):  # type: ignore[misc]
    """flask-restful's RequestParser for services that still use it; here a GET without a JSON body is no 415."""

    def __init__(self, argument_class: type = _Argument, *args: Any, **kwargs: Any) -> None:
        super().__init__(argument_class, *args, **kwargs)

    def add_argument(self, *args: Any, **kwargs: Any) -> RequestParser:
        """Take one more argument; a parser made with `trim=True` trims it."""
        if self.trim:
            kwargs.setdefault("trim", True)
        super().add_argument(*args, **kwargs)
        return self
