"""`sidecar drill`: rehearse faults on a realm of your own, under load. A plan first; everything is undone."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from sidecar.terminal import Session, looks
from smartrealm.errors import ConfigurationError, Conflict, SmartError

if TYPE_CHECKING:
    from sidecar.drill.plan import DrillPlan, Wish
    from sidecar.drill.run import Drill

SECONDS, OWN_SECONDS = 5.0, 2.0
OWN_JOURNAL_MARGIN = 300.0


def _refused(function: Callable[..., None]) -> Callable[..., None]:
    """The options that choose what is done."""
    options = [
        click.option("--go", is_flag=True, help="Begin, without a question."),
        click.option("--plan", "plan_only", is_flag=True, help="Show the plan, and ask nothing."),
        click.option("--own", is_flag=True, help="Build a small realm of its own on this machine, and drill that."),
        click.option("--undo", is_flag=True, help="Undo what a drill that was killed has left, and end."),
        click.option("--only", multiple=True, metavar="FAULT[:TARGET]", help="freeze, kill:agent, flap:identity; repeatable."),
        click.option("--skip", multiple=True, metavar="FAULT[:TARGET]", help="The same, left out."),
        click.option("--service", "services", multiple=True, metavar="NAME", help="Only this service; repeatable."),
        click.option("--seconds", type=float, help="How long a fault lasts, at most 60.  [default: 5; with --own 2]"),
        click.option("--for", "total", type=click.FloatRange(1, 7200), default=600.0, show_default=True, help="Seconds after which no fault begins."),
        click.option("--recover", type=click.FloatRange(0, 600), default=0.0, metavar="SECONDS", help="Wait at most so long until all is as before.  [default: 10 to 40, by fault]"),
        click.option("--path", default="", metavar="PATH", help="What is asked for (GET); else the path of the service's health."),
        click.option("--post", default="", metavar="PATH", help="Post to this path, too. Nothing is posted otherwise."),
        click.option("--rate", type=float, default=100.0, show_default=True, help="Calls per second, all services together."),
        click.option("--as", "caller", default="drill", show_default=True, metavar="SERVICE", help="Who calls, where a service has a list of its callers."),
        click.option("--process", "processes", multiple=True, metavar="NAME=PID", help="Drill this program, too (a store): its pid or pid file."),
        click.option("--every", is_flag=True, help="Each fault on each instance; else on one of each service in turn."),
        click.option("--restarts", is_flag=True, help="Kill also what nobody is known to start again."),
        click.option("--remote", is_flag=True, help="Also instances of other hosts: through Atlas, never with a signal."),
        click.option("--realm-is-mine", "mine", default="", metavar="REALM", help="Its name, where it sounds like production."),
    ]  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


@click.command("drill", short_help="Rehearse faults on a realm of your own.")
@looks
@_refused
def drill(
    session: Session, go: bool, plan_only: bool, own: bool, undo: bool, processes: tuple[str, ...], **asked: Any
) -> None:
    """Freeze, slow, kill, crash, cut off and fill what serves on this host, one after the other, under load, and tell what
    calls were lost. Without --go the plan is shown and, in a terminal, a question asked.

    Only processes of this host and of this user get a signal. Each fault is bounded in time and undone: at its end, on Ctrl-C,
    and by a watchdog should the drill be killed.

    \b
    Exit codes: 0 everything held, 1 something did not, 2 refused, 4 another drill is under way, 5 no sidecar answers.
    """
    if sys.platform != "linux":
        raise ConfigurationError("A drill reads /proc: it runs on Linux only.")
    if undo:
        return _undo(session, own)
    from sidecar.drill.plan import Wish

    asked["seconds"] = asked["seconds"] or (OWN_SECONDS if own else SECONDS)
    wish = Wish(token="" if own else session.environ.get("SIDECAR_TOKEN", ""), **asked)
    programs = dict(_named(one) for one in processes)
    with _ends_on_signals():
        if own:
            _own(session, wish, go, plan_only)
        else:
            _here(session, wish, go, plan_only, programs)
    return None


# -- a realm of the user's --------------------------------------------------------------------------------------------


def _here(session: Session, wish: Wish, go: bool, plan_only: bool, programs: Mapping[str, str]) -> None:
    import atlas
    from sidecar.drill.discovery import Places, find
    from sidecar.drill.journal import NAME
    from sidecar.drill.plan import make_plan, refuse
    from sidecar.drill.watch import Watch

    settings = _settings_of_agent(session)
    refuse(session.realm, wish.mine)  # what the environment says counts, too
    scene = find(settings, session.control, programs=programs, token=wish.token, caller=wish.caller)
    plan = make_plan(scene, wish)
    if not _begins(session, plan, go, plan_only):
        return
    tools = {
        "places": Places(settings, programs=programs),
        "watch": Watch(session.control, tuple(plan.traffic.paths)),
        "directory": lambda: atlas.open(settings.atlas_url, token=settings.atlas_token or None),
    }
    with _journal(settings.directory / NAME) as journal:
        _do(session, plan, journal=journal, **tools)


def _settings_of_agent(session: Session) -> Any:
    """The settings of the environment; where Atlas is, the agent may have been told otherwise."""
    from dataclasses import replace

    from sidecar.drill.discovery import agent_pid
    from sidecar.drill.processes import environ_of, words_of

    settings = session.settings(needs_atlas=False)
    if settings.atlas_url:
        return settings
    pid = agent_pid(settings.directory)
    words = words_of(pid)
    told = words[words.index("--atlas") + 1] if "--atlas" in words[:-1] else environ_of(pid, "ATLAS_URL")
    return replace(settings, atlas_url=told or None)


def _named(text: str) -> tuple[str, str]:
    name, mark, where = text.partition("=")
    if not (name and mark and where):
        raise click.UsageError(f"--process {text}: write NAME=PID, or NAME=/path/of/its.pid")
    return name, where


# -- a realm of its own -----------------------------------------------------------------------------------------------


def _own(session: Session, wish: Wish, go: bool, plan_only: bool) -> None:
    from dataclasses import replace

    from sidecar.drill.own import OwnRealm, planned
    from sidecar.drill.plan import make_plan
    from sidecar.environment import haproxy_program
    from sidecar.proxy import program_version

    wish = replace(wish, services=(), path=wish.path or "/", post=wish.post or "/")
    haproxy = session.environ.get("SIDECAR_HAPROXY") or haproxy_program(session.environ)
    program_version(haproxy)  # raises with what to do when it is not there
    if not _begins(session, make_plan(planned(), wish), go, plan_only):
        return
    with _journal(_own_journal(session)) as journal:
        seconds = wish.total + OWN_JOURNAL_MARGIN
        realm = OwnRealm(journal, environ=session.environ, haproxy=haproxy, seconds=seconds, say=_say(session))
        with realm:
            plan = make_plan(realm.scene(), wish)
            _do(session, plan, journal=journal, places=realm.places(), watch=realm.watch(), special=realm.special())


def _own_journal(session: Session) -> Path:
    from sidecar.drill.journal import NAME
    from smartrealm.places import state_directory

    folder = state_directory(session.environ)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / NAME


# -- both -------------------------------------------------------------------------------------------------------------


def _begins(session: Session, plan: DrillPlan, go: bool, plan_only: bool) -> bool:
    """Show the plan; whether it is to be done."""
    from sidecar.drill.report import plan_document, plan_text

    if not go or plan_only:
        if session.as_json:
            session.give(plan_document(plan))
        else:
            for line in plan_text(plan):
                session.print(line)
    if not plan.steps:
        raise ConfigurationError("No fault is left to be done: see what was left out, and why.")
    if go and not plan_only:
        return True
    if plan_only or session.as_json or not sys.stdin.isatty():
        if not session.as_json:
            session.print("\nNothing was done. Begin with: --go")
        return False
    return click.confirm("Begin?", default=False)


def _do(session: Session, plan: DrillPlan, **tools: Any) -> None:
    from sidecar.drill.load import Load
    from sidecar.drill.run import Drill

    with Load(plan.scene.door, plan.traffic) as load:
        made = Drill(plan, load=load, say=_say(session), **tools)
        try:
            made.run()
        except (KeyboardInterrupt, SystemExit):
            _report(session, made, complete=False)
            raise
    _report(session, made, complete=True)
    session.exit(0 if made.held else 1)


def _report(session: Session, made: Drill, *, complete: bool) -> None:
    from sidecar.drill.report import report_document, report_text

    not_done = [*made.not_done]
    if session.as_json:
        session.give(report_document(made.rows, not_done, complete=complete))
        return
    session.print("" if complete else "\nBroken off; what was under way is undone.")
    for line in report_text(made.rows, not_done, complete=complete):
        session.print(line)


def _say(session: Session) -> Callable[[str], object]:
    """A line of progress, with the time."""
    import time

    return lambda text: session.note(f"{time.strftime('%H:%M:%S')}  {text}")


@contextmanager
def _journal(path: Path) -> Iterator[Any]:
    """The journal with a watchdog beside it."""
    from sidecar.drill.journal import Journal
    from sidecar.drill.watchdog import watched

    with ExitStack() as stack:
        journal = stack.enter_context(Journal(path))
        stack.enter_context(watched(path))
        yield journal


@contextmanager
def _ends_on_signals() -> Iterator[None]:
    """TERM and the end of the terminal end the drill as Ctrl-C does: with everything undone."""

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _undo(session: Session, own: bool) -> None:
    """Undo what a journal holds."""
    from sidecar.drill.journal import NAME, is_held, undo_all

    paths = [session.places.directory / NAME, _own_journal(session)]
    done = failed = 0
    for path in paths:
        if is_held(path):
            raise Conflict(f"A drill is under way with {path}: end it with Ctrl-C, it undoes what it did.")
        more, less = undo_all(path)
        done, failed = done + more, failed + less
        if not less:
            path.unlink(missing_ok=True)
    session.done(
        "Nothing was left to undo." if not done and not failed else f"{done} undone, {failed} could not be.",
        undone=done,
        failed=failed,
    )
    if failed:
        raise SmartError("Not everything could be undone: run it as the user that ran the drill.")
