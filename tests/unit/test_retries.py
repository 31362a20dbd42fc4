"""Calls to a server that is away: made again, with pauses, and not for ever."""

import time

import pytest

from sightline.errors import StoreUnreachable
from sightline.stores.remote import retry


def is_transient(error: Exception) -> bool:
    return isinstance(error, ConnectionError)


def test_a_call_is_made_again_until_it_succeeds() -> None:
    outcomes = iter([ConnectionError("refused"), ConnectionError("refused"), None])

    def call() -> str:
        if error := next(outcomes):
            raise error
        return "there"

    assert retry(call, is_transient=is_transient, what="a server", timeout_s=5) == "there"


def test_patience_ends_with_an_error_that_names_the_server() -> None:
    calls = list[float]()

    def call() -> None:
        calls.append(time.monotonic())
        raise ConnectionRefusedError("connection refused\nand a trace")

    with pytest.raises(StoreUnreachable, match=r"qdrant://host/a does not answer \(connection refused\)"):
        retry(call, is_transient=is_transient, what="qdrant://host/a", timeout_s=0.5)
    assert 3 <= len(calls) <= 6
    assert calls[-1] - calls[0] < 2


def test_other_errors_are_not_tried_again() -> None:
    calls = list[int]()

    def call() -> None:
        calls.append(1)
        raise KeyError("mistake")

    with pytest.raises(KeyError):
        retry(call, is_transient=is_transient, what="a server")
    assert calls == [1]
