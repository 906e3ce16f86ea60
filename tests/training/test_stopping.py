import signal

import pytest

from igb.training.stopping import SIGNALS, Stop, StoppedError


@pytest.fixture(autouse=True)
def heard():
    """SIGINT as in a terminal; what a shell starts in its background ignores it, and igb leaves it so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_stops_at_once_outside_and_at_the_next_check_inside_deferred(number):
    before = [signal.getsignal(each) for each in SIGNALS]
    with Stop(), pytest.raises(StoppedError) as now:
        signal.raise_signal(number)
    assert (now.value.number, now.value.between_steps) == (number, False)
    with Stop() as stop, stop.deferred():
        stop.check()
        signal.raise_signal(number)
        with pytest.raises(StoppedError) as later:
            stop.check()
    assert (later.value.number, later.value.between_steps) == (number, True)
    assert before == [signal.getsignal(each) for each in SIGNALS]


def test_a_second_signal_does_not_wait():
    with Stop() as stop, stop.deferred():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(StoppedError) as stopped:
            signal.raise_signal(signal.SIGINT)
    assert not stopped.value.between_steps


def test_who_took_the_signals_since_does_not_keep_them():
    with Stop() as stop, stop.deferred():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as Lightning's handler would
        stop.listen()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(StoppedError):
            stop.check()
