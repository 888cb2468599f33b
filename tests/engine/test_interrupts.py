"""Ctrl-C and SIGTERM are deferred until the state is consistent."""

import os
import signal
import threading
import time

import pytest

from d2_ctxseg.engine.interrupts import (
    SIGNALS,
    Interrupted,
    InterruptibleEvaluator,
    deferred_interrupts,
    interrupted,
    leave_interrupts_to_parent,
)
from d2_ctxseg.engine.progress import WithProgressBar
from d2_ctxseg.utils.errors import exit_on_user_error
from detectron2.evaluation import DatasetEvaluator


@pytest.fixture(autouse=True)
def handlers_are_given_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert not interrupted()


class Evaluator(DatasetEvaluator):
    def reset(self):
        self.images = []

    def process(self, inputs, outputs):
        self.images += inputs

    def evaluate(self):
        return {"images": len(self.images)}


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_handled_at_the_next_check(number):
    with pytest.raises(Interrupted) as caught, deferred_interrupts() as interrupts:
        interrupts.stop_if_requested()
        signal.raise_signal(number)
        assert interrupted()
        interrupts.stop_if_requested()
        pytest.fail("not stopped")
    assert caught.value.args == (number,)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_exit_codes_are_those_of_the_signals(number, code):
    with pytest.raises(SystemExit) as caught, exit_on_user_error(), deferred_interrupts() as both:
        signal.raise_signal(number)
        both.stop_if_requested()
    assert caught.value.code == code


def test_one_without_a_check_is_handled_at_the_end():
    with pytest.raises(Interrupted), deferred_interrupts():
        signal.raise_signal(signal.SIGINT)


def test_an_inner_block_leaves_the_answer_to_the_outer_one():
    with pytest.raises(Interrupted), deferred_interrupts() as outer:
        with deferred_interrupts() as inner:
            assert inner is outer
            signal.raise_signal(signal.SIGINT)
        assert interrupted()
        outer.stop_if_requested()


def test_the_same_signal_from_two_senders_is_one(monkeypatch):
    with pytest.raises(Interrupted), deferred_interrupts() as interrupts:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        interrupts.stop_if_requested()


def test_a_second_one_later_ends_at_once(monkeypatch):
    clock = iter([10.0, 12.0])
    monkeypatch.setattr("d2_ctxseg.engine.interrupts.time.monotonic", lambda: next(clock))
    with pytest.raises(KeyboardInterrupt) as caught, deferred_interrupts():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("not ended")
    assert not isinstance(caught.value, Interrupted)


def test_in_other_threads_signals_are_left_alone():
    def run():
        with deferred_interrupts() as interrupts:
            interrupts.stop_if_requested()
            handlers.append(signal.getsignal(signal.SIGTERM))

    handlers = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]


def test_an_interrupted_evaluation_has_no_results():
    evaluator = Evaluator()
    with pytest.raises(Interrupted), deferred_interrupts() as interrupts:
        both = InterruptibleEvaluator(evaluator, interrupts)
        both.reset()
        for image in WithProgressBar(range(5), "images"):
            both.process([image], None)
            if image == 2:
                signal.raise_signal(signal.SIGINT)
        both.evaluate()
    assert evaluator.images == [0, 1, 2]


def test_an_evaluation_that_is_left_alone_has_those_of_the_evaluator():
    with deferred_interrupts() as interrupts:
        both = InterruptibleEvaluator(Evaluator(), interrupts)
        both.reset()
        both.process([1], None)
        assert both.evaluate() == {"images": 1}


def test_worker_processes_survive_what_is_meant_for_their_parent():
    ready, told = os.pipe()
    worker = os.fork()
    if worker == 0:
        leave_interrupts_to_parent()
        os.write(told, b".")
        time.sleep(60)
        os._exit(1)
    os.read(ready, 1)
    stranger = os.fork()
    if stranger == 0:
        for number in SIGNALS:
            os.kill(worker, number)
        os._exit(0)
    os.waitpid(stranger, 0)
    assert os.waitpid(worker, os.WNOHANG) == (0, 0)
    os.kill(worker, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == 0
