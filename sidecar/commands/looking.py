"""`sidecar status` and `sidecar why`: how it stands, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from sidecar.control import why_path
from sidecar.telling import service_lines, status_lines
from sidecar.terminal import Session, looks
from sidecar.why import why_lines
from smartrealm.errors import NotFound, Unavailable


def _style(text: str, colour: str) -> str:
    return click.style(text, fg=colour or None)


@click.command("status")
@click.argument("service", required=False)
@click.option(
    "--ready", "only_ready", is_flag=True, help="Only whether calls can pass: exit code 1 when not, for probes."
)
@looks
def status(session: Session, service: str | None, only_ready: bool) -> None:
    """How the sidecar of this host stands: what is wrong, since when, what to do; then the facts. With SERVICE: how that one is
    routed, and each of its instances."""
    if only_ready:
        _ready(session)
    elif service is not None:
        _service(session, service)
    else:
        try:
            document = session.control.get("/v1/status")
        except Unavailable as error:
            raise Unavailable(f"{error.message}{_proxy_goes_on(session)}{_is_looked_after(session)}") from error
        if session.as_json:
            session.give(document)
            return
        for line in status_lines(document, session.now(), _style, _rates(session)):
            session.print(line)


def _ready(session: Session) -> None:
    document = session.control.get("/v1/status")
    if session.as_json:
        session.give({"ready": document["ready"], "says": document["says"]})
    else:
        session.print(f"{'ready' if document['ready'] else 'not ready'}: {document['says']}")
    if not document["ready"]:
        session.exit(1)


def _proxy_goes_on(session: Session) -> str:
    """Whether calls pass without the agent: the first question of whoever finds it away."""
    from sidecar.runtime import Runtime

    try:
        info = Runtime(session.places.runtime_socket).info()
    except (Unavailable, OSError):
        return " HAProxy does not answer either."
    return f" HAProxy {info.version} (process {info.pid}) goes on with what it knew."


def _is_looked_after(session: Session) -> str:
    """Whether a `sidecar up` starts the agent again and again: then the cause is not that nobody has started it."""
    from sidecar.supervisor import holder

    pid = holder(session.directory)
    return f" A `sidecar up` (process {pid}) runs and starts it again: its log says why it ended." if pid else ""


def _rates(session: Session) -> Mapping[str, Any]:
    """What passes through each service; nothing while HAProxy does not answer."""
    try:
        return dict(session.control.get("/v1/rates"))
    except Unavailable:
        return {}


def _service(session: Session, service: str) -> None:
    document = session.control.get(why_path(service))
    if not document["known"]:
        raise NotFound(document["says"])
    rates = _rates(session)
    if session.as_json:
        session.give({**document, "rates": rates.get("services", {}).get(service)})
        return
    for line in service_lines(document, rates, session.now(), _style):
        session.print(line)


@click.command("why")
@click.argument("service")
@click.argument("instance", required=False)
@looks
def why(session: Session, service: str, instance: str | None) -> None:
    """Why a service, or one instance of it, is called or is not: which revision, rule, check or guard decided, and since when.

    INSTANCE is HOST:PORT, or the host or the port alone. A name that is not known is explained as well: the exit code is 0.
    """
    document = session.control.get(why_path(service, instance))
    if session.as_json:
        session.give(document)
        return
    for line in why_lines(document, session.now()):
        session.print(line)
