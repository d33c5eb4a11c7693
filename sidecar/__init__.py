"""The sidecar: keeps the HAProxy of its host in step with the map, and speaks in the map for the instances of its host.

Every rule in its order is told in docs/explanation/how-the-sidecar-decides.md. What decides is pure and takes its clock as an
argument; what acts is the fewer modules: agent, follower, steering, leaving, proxy, files, local, lease and their threads.

Where to begin
    model.py         the values that are passed on: map -> Plan -> State -> commands and files
    agent.py         the loop that passes them on, and the threads around it

The map -> what is to be routed (`Plan`)
    follower.py      the map to go by: Atlas's, or the one that was kept on disk
    plan.py          the Planner: which services are to be decided anew; its plan
    history.py       one service from plan to plan: the order in which the rules act
    rules.py         the rules on one instance, then on a service: rulings, versions, splits, zones
    guard.py         what vanished without draining is called on, when it was too much at once
    damping.py       who comes and goes waits before it is taken back
    usable.py        whether what the map says can be used at all
    resolve.py       addresses of host names, looked up in the background
    held_checks.py   asks those whom the guard holds whether they live
    memory.py        what the planner remembers over a restart

What is to be routed -> what HAProxy knows (`State`)
    steering.py      brings HAProxy to each plan and keeps it there: the acting half of this group
    layout.py        which backend holds which service
    servers.py       the names and weights of servers
    diff.py          from one State to another: commands
    fields.py        what may be said to HAProxy: every field is checked here
    barred.py        services that HAProxy will not have, set aside
    leaving.py       servers that take no new calls: counted, then deleted
    ejection.py      when an ejected server is tried again
    repeats.py       servers whose requests HAProxy has to repeat, which it does not eject by itself
    render.py        HAProxy's file and maps, as text
    template.py      the parts of the file that are the same for every map

HAProxy itself
    proxy.py         the process: start, reload, stop
    master.py        the socket of its master: workers, reloads
    runtime.py       the socket of its worker: commands in, what it knows out
    events.py        what it tells by itself: a server went up or down
    files.py         its files on disk: tried, written whole, a while after each change
    coldstart.py     `sidecar proxy`: its files without the agent, from the kept map
    tokens.py        the file that says who may call

The instances of this host
    local.py         follows them: one thread that looks and asks
    announced.py     the folder of their announcements
    checks.py        one question to one instance
    readiness.py     from answers to phases: starting, ready, not ready, draining ...
    lease.py         what the map hears of them: the lease of this host, with its report

What the agent tells of itself
    view.py          gathers it from the parts of the agent, and has the loop do what is asked
    facts.py         all of it at one moment, as frozen values
    troubles.py      what is not well, since when, what to do
    status.py        documents: status, routes, rates, health
    why.py           documents: why a service or an instance is called, or is not
    telling.py       documents as lines for a terminal
    metrics.py       for Prometheus
    rates.py         what passes through each service, as HAProxy counts it
    admin.py         all of this over HTTP, with the page in page/
    http_server.py   the small HTTP server below it
    audit.py         the record of what operators did here

The command `sidecar`
    cli.py           the table of the commands, which are in commands/
    terminal.py      what they share: options, Session, exit codes
    control.py       asks the agent through its control socket
    settings.py      the settings, each with its default
    environment.py   the settings from the environment, every mistake at once
    findings.py      `sidecar check`
    units.py         `sidecar units`: systemd, Dockerfile, manifest
    supervisor.py    `sidecar up`: keeps HAProxy and the agent running
    child.py         a child of `sidecar up`, which ends with it
    probe.py         `python -m sidecar.probe`: for probes that are commands

drill/ is the fault kit, with a map of its own.
"""
