"""What every service promises."""

from flask.testing import FlaskClient


def test_it_is_healthy(client: FlaskClient) -> None:
    """The health answers 200 when nothing is wrong."""
    assert client.get("/healthcheck").status_code == 200


def test_it_is_alive_whatever_it_depends_on(client: FlaskClient) -> None:
    """Liveness contains no dependency, so that a broken database restarts nobody."""
    assert client.get("/healthcheck/live").status_code == 200


def test_what_is_not_there_is_a_problem_with_the_id_of_the_request(client: FlaskClient) -> None:
    """Errors have one form, and name the request that the log knows."""
    missing = client.get("/nothing", headers={"X-Request-ID": "abc-123"})
    assert (missing.status_code, missing.content_type) == (404, "application/problem+json")
    assert missing.headers["X-Request-ID"] == "abc-123"


def test_it_counts(client: FlaskClient) -> None:
    """Prometheus finds the requests that were answered."""
    client.get("/healthcheck/live")
    assert b"smartservice_" in client.get("/metrics").data
