"""What HAProxy counts, service by service."""

from __future__ import annotations

from sidecar.facts import Rate
from sidecar.rates import parse_rates

HEAD = "# pxname,svname,scur,stot,econ,eresp,type,rate,hrsp_5xx,"
LINES = (
    "identity,10.0.0.1:8000,2,90,1,0,2,7,3,",
    "identity,10.0.0.2:8000.b,0,10,0,0,2,0,0,",
    "identity,BACKEND,2,100,1,0,1,7,3,",
    "_spare_001,10.0.0.1:8000,1,5,0,1,2,1,0,",
    "_spare_001,BACKEND,1,5,0,1,1,1,0,",
    "_calls,FRONTEND,9,200,,,0,9,4,",
)


def test_the_sides_of_a_split_are_one_service() -> None:
    """The main backend and the one that holds a side are added up, for the service and for an instance in both."""
    owners = {"identity": "identity", "_spare_001": "identity"}
    found = parse_rates("\n".join((HEAD, *LINES)), owners)
    assert found.keys() == {"identity"}
    identity = found["identity"]
    assert (identity.requests_per_second, identity.sessions, identity.requests, identity.errors) == (8, 3, 105, 5)
    assert identity.servers == {"10.0.0.1:8000": Rate(8, 3, 95, 5), "10.0.0.2:8000": Rate(0, 0, 10, 0)}
