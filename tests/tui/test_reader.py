"""`Reader`: only what was asked for last is answered, one thread at a time."""

from __future__ import annotations

import threading
from typing import Any

from inspector.errors import Cancelled, InspectError, StorageError
from inspector.tui.reader import Reader, Stop


class Answers:
    def __init__(self) -> None:
        self.got: list[tuple[Any, Any]] = []
        self._more = threading.Condition()

    def __call__(self, key: Any, value: Any) -> None:
        with self._more:
            self.got.append((key, value))
            self._more.notify_all()

    def wait(self, count: int) -> list[tuple[Any, Any]]:
        with self._more:
            assert self._more.wait_for(lambda: len(self.got) >= count, 30), self.got
            return self.got


class Held:
    """Work that goes on until it is told to stop, or let go."""

    def __init__(self, answer: Any = None) -> None:
        self.began, self.let_go = threading.Event(), threading.Event()
        self.was_stopped = False
        self.answer = answer

    def __call__(self, stop: Stop) -> Any:
        self.began.set()
        while not self.let_go.wait(0.005):
            if stop():
                self.was_stopped = True
                return "part"
        return self.answer


def test_an_answer_comes_with_its_key() -> None:
    answers = Answers()
    reader = Reader(answers)
    reader.ask("a", lambda stop: 1)
    assert answers.wait(1) == [("a", 1)]
    assert not reader.is_busy
    reader.ask("b", lambda stop: 2)
    assert answers.wait(2)[1] == ("b", 2)


def test_what_is_asked_anew_takes_the_place_of_what_runs_and_what_waits() -> None:
    answers = Answers()
    reader = Reader(answers)
    first, seen = Held(), []
    reader.ask(1, first)
    assert first.began.wait(30)
    threads = threading.active_count()
    for key in range(2, 50):
        reader.ask(key, lambda stop, key=key: seen.append(key) or key)  # type: ignore[misc]
        assert threading.active_count() <= threads
    assert answers.wait(1) == [(49, 49)]
    assert first.was_stopped
    assert seen[-1] == 49
    assert len(answers.got) == 1


def test_what_is_stopped_still_answers_and_what_is_dropped_does_not() -> None:
    answers = Answers()
    reader = Reader(answers)
    work = Held()
    reader.ask("stopped", work)
    assert work.began.wait(30)
    reader.stop()
    assert answers.wait(1) == [("stopped", "part")]
    work = Held()
    reader.ask("dropped", work)
    assert work.began.wait(30)
    reader.drop()
    assert not reader.is_stopping
    reader.ask("after", lambda stop: 3)
    assert answers.wait(2)[1:] == [("after", 3)]
    assert work.was_stopped


def test_errors_are_answers_and_a_bug_is_told_as_one() -> None:
    answers = Answers()
    reader = Reader(answers)

    def fails(error: Exception) -> Any:
        def work(stop: Stop) -> Any:
            raise error

        return work

    reader.ask(1, fails(StorageError("gone")))
    answers.wait(1)
    reader.ask(2, fails(ValueError("\x1b[2Jboom")))
    answers.wait(2)
    reader.ask(3, fails(Cancelled("stopped")))
    errors = [value for _, value in answers.wait(3)]
    assert [str(error) for error in errors[:1]] == ["gone"]
    assert isinstance(errors[1], InspectError)
    assert "ValueError: \\x1b[2Jboom" in errors[1].message
    assert isinstance(errors[2], Cancelled)
