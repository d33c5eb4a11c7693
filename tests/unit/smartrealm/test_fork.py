import gc
import os
from collections.abc import Callable

from smartrealm import fork


class Owner:
    def __init__(self) -> None:
        self.resets: list[int] = []

    def reset(self) -> None:
        self.resets.append(os.getpid())


def in_child(report: Callable[[], object]) -> str:
    """What `report()` gives in a forked child."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, str(report()).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with os.fdopen(read) as pipe:
        return pipe.read()


def test_an_owner_is_reset_once_in_the_child_only() -> None:
    """The child begins anew; the parent keeps what it has."""
    owner = Owner()
    fork.on_fork(owner, Owner.reset)
    assert in_child(lambda: len(owner.resets)) == "1"
    assert owner.resets == []


def test_one_reset_that_fails_does_not_stop_the_others() -> None:
    """A fault in one part leaves the rest of the child usable."""
    broken, owner = Owner(), Owner()

    def fail(_: Owner) -> None:
        raise RuntimeError("on purpose")

    fork.on_fork(broken, fail)
    fork.on_fork(owner, Owner.reset)
    assert in_child(lambda: len(owner.resets)) == "1"


def test_a_dropped_owner_leaves_the_registry() -> None:
    """A thousand apps that came and went leave nothing behind."""
    gc.collect()
    before = fork.registered()
    for _ in range(1000):
        fork.on_fork(Owner(), Owner.reset)
    gc.collect()
    assert fork.registered() == before


def test_a_reset_may_register_again() -> None:
    """A part that is made anew in the child registers itself there without a deadlock."""
    owner = Owner()
    fork.on_fork(owner, lambda known: fork.on_fork(known, Owner.reset))
    assert in_child(lambda: fork.registered() > 0) == "True"
