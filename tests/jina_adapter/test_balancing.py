"""To which of several replicas a gateway sends a request: the choice itself, without a gateway."""

from collections import Counter

from executor.jina_adapter.orchestration.balancing import Balance

REPLICAS = ["a", "b", "c"]
NO_TRIES: Counter[str] = Counter()


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def chosen(balance: Balance, times: int, tries: Counter[str] = NO_TRIES) -> set[str]:
    return {REPLICAS[balance.choose(REPLICAS, tries)] for _ in range(times)}


def test_idle_replicas_take_turns():
    balance = Balance()
    assert [balance.choose(REPLICAS, NO_TRIES) for _ in range(6)] == [1, 2, 0, 1, 2, 0]


def test_the_replica_with_the_fewest_requests_in_flight_is_next():
    balance = Balance()
    balance.in_flight.update(a=3, b=1, c=2)
    assert chosen(balance, 3) == {"b"}


def test_a_replica_that_does_not_serve_is_left_out_until_it_says_that_it_does():
    balance = Balance(clock := Clock())
    balance.says("b", serves=False)
    clock.now = 1e9
    assert chosen(balance, 6) == {"a", "c"}
    balance.says("b", serves=True)
    assert chosen(balance, 6) == {"a", "b", "c"}


def test_a_replica_that_failed_is_left_out_until_its_health_must_be_known():
    balance = Balance(clock := Clock())
    balance.failed("b")
    assert chosen(balance, 6) == {"a", "c"}
    clock.now = 20.0
    assert chosen(balance, 6) == {"a", "b", "c"}


def test_a_failure_does_not_let_a_replica_back_in_that_does_not_serve():
    balance = Balance(clock := Clock())
    balance.says("b", serves=False)
    balance.failed("b")
    clock.now = 20.0
    assert chosen(balance, 6) == {"a", "c"}


def test_a_replica_that_says_it_serves_is_not_left_out_for_a_failure_before():
    balance = Balance(Clock())
    balance.failed("b")
    balance.says("b", serves=True)
    assert chosen(balance, 6) == {"a", "b", "c"}


def test_the_next_try_of_a_request_goes_elsewhere():
    balance = Balance()
    balance.in_flight.update(a=0, b=5, c=5)
    assert chosen(balance, 6, Counter(a=1)) == {"b", "c"}


def test_where_none_serves_all_are_tried():
    balance = Balance()
    for replica in REPLICAS:
        balance.says(replica, serves=False)
    assert chosen(balance, 6) == set(REPLICAS)
