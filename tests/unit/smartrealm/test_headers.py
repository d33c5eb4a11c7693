import pytest

from smartrealm import headers
from smartrealm.headers import CallContext

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def read(fields: dict[str, str]) -> CallContext:
    return CallContext.from_headers(fields.get, clock=lambda: 100.0, new_id=lambda: "new")


def test_a_context_survives_the_way_over_the_wire() -> None:
    """What one service writes the next one reads: id, caller, deadline and trace."""
    call = CallContext("id-1", caller="identity", deadline=100.25, traceparent=TRACE, tracestate="v=1")
    assert read(dict(call.to_headers(clock=lambda: 100.0))) == call


def test_the_deadline_travels_as_what_is_left_of_it() -> None:
    """Clocks of two hosts need not agree: milliseconds left are sent, never below zero."""
    call = CallContext("id", deadline=100.5)
    assert call.to_headers(clock=lambda: 100.2)[headers.DEADLINE] == "299"
    assert call.to_headers(clock=lambda: 200.0)[headers.DEADLINE] == "0"


@pytest.mark.parametrize("bad", ["", "a b", "a\nb", "x" * 129, "<script>", "ä"])
def test_a_request_id_that_could_do_harm_is_replaced(bad: str) -> None:
    """Only short plain ids are taken over from outside; anything else gets a new one."""
    assert read({headers.REQUEST_ID: bad}).request_id == "new"


@pytest.mark.parametrize("bad", ["-1", "1.5", "soon", "", "1" * 10])
def test_a_deadline_that_is_no_number_counts_as_absent(bad: str) -> None:
    """A broken header never breaks a request."""
    assert read({headers.DEADLINE: bad}).deadline is None


@pytest.mark.parametrize(
    "bad",
    ["", "ff" + TRACE[2:], TRACE.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32), TRACE.upper(), TRACE + "-x"],
)
def test_a_broken_trace_is_dropped_together_with_its_state(bad: str) -> None:
    """W3C Trace Context: an invalid traceparent is ignored, and tracestate with it."""
    call = read({headers.TRACEPARENT: bad, headers.TRACESTATE: "v=1"})
    assert call.traceparent is None
    assert call.tracestate is None


def test_a_caller_that_is_no_service_name_is_dropped() -> None:
    """The caller appears in log lines: nothing but a service name gets there."""
    assert read({headers.CALLER: 'x" injected'}).caller is None


def test_a_new_request_id_is_valid_and_unique() -> None:
    """32 hexadecimal digits, never twice the same."""
    ids = {headers.new_request_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(read({headers.REQUEST_ID: one}).request_id == one for one in ids)


def test_only_allowed_baggage_is_read_and_passed_on() -> None:
    """Of the W3C baggage the allow-listed entries flow on, without their properties; all others end here."""
    given = {"baggage": "tenant=acme%20ltd;meta=1, user=42,broken,empty="}
    call = CallContext.from_headers(given.get, tags={"tenant", "empty"})
    assert call.tags == {"tenant": "acme ltd", "empty": ""}
    assert call.to_headers()["baggage"] == "tenant=acme%20ltd,empty="


def test_no_baggage_is_read_unless_something_is_allowed() -> None:
    """Without an allow-list nothing of the caller's baggage is kept."""
    call = CallContext.from_headers({"baggage": "tenant=acme"}.get)
    assert not call.tags
    assert "baggage" not in call.to_headers()


@pytest.mark.parametrize(
    ("sent", "bucket"),
    [
        ("0", 0),
        ("9999", 9999),
        ("0042", 42),
        ("10000", None),
        ("-1", None),
        ("", None),
        ("1.5", None),
        ("\u0661", None),
        ("7\n", None),
    ],
)
def test_a_bucket_is_a_number_below_ten_thousand(sent: str, bucket: int | None) -> None:
    """Anything else counts as absent."""
    assert read({headers.BUCKET: sent}).bucket == bucket


def test_a_bucket_is_made_up_only_where_none_came() -> None:
    """Whoever was put on a side before stays there, and is on the same side at the next service."""
    made = CallContext.from_headers({headers.BUCKET: "7"}.get, new_bucket=lambda: 8)
    assert made.bucket == 7
    assert CallContext.from_headers({headers.BUCKET: "x"}.get, new_bucket=lambda: 8).bucket == 8
    assert made.to_headers()[headers.BUCKET] == "7"
    assert headers.BUCKET not in CallContext("id").to_headers()
