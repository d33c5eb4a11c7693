"""`sidecar accept` and `sidecar reload`: what an operator decides on this host. Both are on record in audit.jsonl."""

from __future__ import annotations

import difflib

import click

from sidecar.terminal import Session, acts
from smartrealm.errors import NotFound
from smartrealm.wording import count, some


@click.command("accept")
@click.argument("service")
@click.option("--why", required=True, metavar="TEXT", help="The reason, kept in audit.jsonl.")
@acts
def accept(session: Session, service: str, why: str) -> None:
    """Let go of the instances that the guard of SERVICE holds on this host: they are called no more.

    For every host at once: `atlas accept-loss SERVICE`.
    """
    guards = {guard["service"]: guard for guard in session.control.get("/v1/status")["guards"]}
    if service not in guards:
        near = difflib.get_close_matches(service, guards, n=3, cutoff=0.5)
        held = (
            f"; did you mean {' or '.join(near)}?" if near else f": it holds {some(sorted(guards))}." if guards else "."
        )
        raise NotFound(f"The guard holds nothing of {service}{held}", near=near)
    if session.dry_run:
        let_go = guards[service]["addresses"]
    else:
        answer = session.control.post("/v1/accept", {"service": service, "why": why, "by": session.author})
        let_go = answer["let_go"]
    told = f"{count(len(let_go), 'instance')} of {service} let go: {some(let_go, 8)}"
    session.done(told if let_go else f"The guard of {service} had let go already.", service=service, let_go=let_go)


@click.command("reload")
@click.option("--why", required=True, metavar="TEXT", help="The reason, kept in audit.jsonl.")
@acts
def reload(session: Session, why: str) -> None:
    """Load HAProxy anew from the files as they are to be. No call is lost: the old process ends what it has."""
    if session.dry_run:
        session.control.get("/v1/status")
    else:
        session.control.post("/v1/reload", {"why": why, "by": session.author})
    session.done("The reload is asked for; `sidecar status` says when it is done.", why=why)
