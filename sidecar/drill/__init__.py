"""The fault kit: faults that can be undone, and the drill that does them one after the other under load. What is expected of
each fault is in docs/reference/faults.md.

    faults.py         the faults, each a context manager
    journal.py        what is to be undone, on disk before it is done
    watchdog.py       undoes it when the drill is killed
    processes.py      processes of this host, and signals that reach nobody else
    relay.py          a wire that can be cut

    scene.py          what there is to drill: values
    discovery.py      finds it on this host
    own.py            builds it: a realm of the drill's own
    instance.py       the small service in that realm

    expectations.py   what a correct system does at each fault
    plan.py           what is going to be done
    load.py           the calls that are sent meanwhile
    watch.py          whether all is as before
    judge.py          what a fault has cost, and whether that was to be expected
    run.py            does what a plan says
    report.py         plan and report as a person reads them
"""
