"""Asking the agent of this host, through its control socket. Standard library, one connection for each question."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from smartrealm import errors
from smartrealm.errors import Forbidden, SmartError, Unavailable, ValidationFailed

SECONDS = 5.0

_BY_CODE: Mapping[str, type[SmartError]] = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, SmartError) and kind.code != "internal"
}


class Control:
    """The agent behind a control socket. Errors are those that the agent raised; Unavailable when there is none."""

    def __init__(self, path: Path, *, seconds: float = SECONDS) -> None:
        self.path = path
        self._seconds = seconds

    def get(self, path: str) -> Any:
        """The JSON at a path such as `/v1/status`."""
        return json.loads(self.ask("GET", path)[1])

    def post(self, path: str, document: Mapping[str, Any]) -> Any:
        """What the agent answers to a document."""
        return json.loads(self.ask("POST", path, json.dumps(document).encode())[1])

    def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body. Raises the error that a problem tells, and Unavailable when nobody answers within `seconds`."""
        from http.client import HTTPException, HTTPResponse  # 30 ms, which a command that asks nobody need not wait

        head = (
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
                asking.settimeout(self._seconds)
                asking.connect(str(self.path))
                asking.sendall(head.encode("ascii") + body)
                answer = HTTPResponse(asking, method=method)
                answer.begin()
                content = answer.read()
        except PermissionError as error:
            raise Forbidden(
                f"This user may not ask the sidecar: {self.path} is for the one who runs it, and for root."
            ) from error
        except (OSError, HTTPException) as error:
            raise Unavailable(self._why(error)) from error
        if "problem+json" in (answer.getheader("Content-Type") or ""):
            raise _error(answer.status, content)
        return answer.status, content

    def _why(self, error: Exception) -> str:
        if isinstance(error, FileNotFoundError):
            return (
                f"No sidecar runs here: there is no {self.path}. `sidecar up` starts one; one that runs elsewhere is "
                f"named with --realm or REALM, --dir or SIDECAR_DIR.{self._beside()}"
            )
        if isinstance(error, ConnectionRefusedError):
            return f"The sidecar does not run: nobody listens at {self.path}. `sidecar up`, or the unit smartservice-sidecar, starts it again."
        if isinstance(error, TimeoutError):
            return f"The sidecar did not answer within {self._seconds:g} s at {self.path}."
        return f"The sidecar did not answer at {self.path} ({type(error).__name__})."

    def _beside(self) -> str:
        """Those in the folder where sidecars of other realms have their directories: often one of them was meant."""
        own = self.path.parent
        found = sorted(str(one.parent) for one in own.parent.glob(f"*/{self.path.name}") if one.parent != own)
        return f" Beside it there is {' and '.join(found[:3])}." if found else ""


def why_path(service: str, address: str | None = None) -> str:
    """The path of an explanation."""
    base = f"/v1/why/{quote(service, safe='')}"
    return base if address is None else f"{base}/{quote(address, safe='')}"


def _error(status: int, content: bytes) -> SmartError:
    try:
        problem = json.loads(content)
        code, detail = str(problem["code"]), str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        return Unavailable(f"The sidecar answered {status}.")
    kind = _BY_CODE.get(code)
    if kind is ValidationFailed:
        return ValidationFailed(detail, errors=problem.get("errors", ()))
    if kind is not None:
        return kind(detail)
    return errors.BadRequest(detail) if status < 500 else SmartError(detail)
