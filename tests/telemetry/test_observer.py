"""Whoever listens is told of everything, and can harm nobody."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from executor.telemetry.observer import SILENT, Observer, Observers


class Noting(Observer):
    """Notes when a document begins and ends, and fails where it is told to."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.noted: list[str] = []

    def document(self, number: int, documents: int) -> AbstractContextManager[object]:
        self._note("called")
        return self._around()

    @contextmanager
    def _around(self) -> Iterator[None]:
        self._note("entered")
        try:
            yield
        finally:
            self._note("left")

    def documents_refused(self, documents: int) -> None:
        self._note(f"refused {documents}")

    def current_document(self) -> object:
        self._note("asked")
        return self

    def _note(self, event: str) -> None:
        self.noted.append(event)
        if event.split()[0] == self.fails:
            raise RuntimeError(event)


@pytest.mark.parametrize("fails", ["called", "entered", "left"])
def test_a_listener_that_fails_leaves_no_others_context_open_and_harms_no_work(fails, caplog):
    good, bad, other = Noting(), Noting(fails), Noting()
    done = []
    observers = Observers([good, bad, other])
    for _ in range(2):
        with observers.document(0, 1):
            done.append(True)
    assert done == [True, True]
    assert good.noted == other.noted == ["called", "entered", "left"] * 2
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_a_context_is_entered_when_it_is_and_not_when_it_is_asked_for():
    listener = Noting()
    around = Observers([listener]).document(0, 1)
    assert listener.noted == ["called"]
    with around:
        assert listener.noted == ["called", "entered"]
    assert listener.noted == ["called", "entered", "left"]


def test_an_error_of_the_work_goes_through_and_every_context_is_left():
    listeners = Noting(), Noting()
    with pytest.raises(KeyError), Observers(listeners).document(0, 1):
        raise KeyError
    assert [listener.noted[-1] for listener in listeners] == ["left", "left"]


def test_an_event_reaches_everybody_though_the_first_fails():
    bad, good = Noting("refused"), Noting()
    Observers([bad, good]).documents_refused(3)
    assert good.noted == ["refused 3"]


def test_the_current_document_is_the_first_listeners_that_has_one():
    bad, second, third = Noting("asked"), Noting(), Noting()
    assert Observers([SILENT, bad, second, third]).current_document() is second
    assert Observers([SILENT]).current_document() is None
