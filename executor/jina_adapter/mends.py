"""Mends of Jina: what the release that this service is tested with does wrong or not well enough for it.

Each mend is a function that says what is wrong and replaces as little of Jina as it can. They change classes of Jina
for the whole process, and leave every other Executor in it as it was. `apply` is called when the package is imported,
which on every way to start the service is before its server is built.
"""

from collections.abc import Callable

import jina

from executor.errors import StartupError
from executor.jina_adapter.orchestration.balancing import send_to_the_replica_with_the_least_to_do
from executor.jina_adapter.orchestration.gateway_server import (
    bear_keepalive_pings,
    connect_anew_after_a_failure,
    drain_gateways,
    say_whether_executors_can_be_reached,
)
from executor.jina_adapter.orchestration.gateways import (
    cancel_what_a_gateway_has_sent,
    end_a_gateway_that_is_not_let_in,
    keep_order_behind_a_gateway,
    tell_no_addresses_of_executors,
)
from executor.jina_adapter.orchestration.pods import (
    end_a_worker_with_its_parent_and_its_device,
    end_pods_at_once_while_they_load,
    keep_pods_serving,
    let_a_segfault_end_a_process,
    look_up_no_public_address,
)
from executor.jina_adapter.worker.loggers import log_as_the_process_does
from executor.jina_adapter.worker.messages import count_no_bytes_in_the_environment
from executor.jina_adapter.worker.replies import refuse_before_documents_are_read, tell_clients_no_more_than_they_need
from executor.jina_adapter.worker.server import serve_as_the_executor_says
from executor.jina_adapter.worker.streams import overlap_requests_of_a_stream

TESTED = "3.34.0"
_APPLIED = "_blip2_fixes_applied"


def apply() -> None:
    """Mends Jina, once in a process: the package may be loaded twice, since Jina loads it under a name of its own.

    A Jina of another release is left as it is, so that clients can import the package for its documents.
    """
    if jina.__version__ != TESTED or hasattr(jina, _APPLIED):
        return
    for mend in MENDS:
        mend()
    setattr(jina, _APPLIED, True)


def require() -> None:
    """For who serves.

    Raises:
        StartupError: the mends do not fit the installed Jina.
    """
    if jina.__version__ != TESTED:
        raise StartupError(
            f"this service mends Jina {TESTED} and was not tested with the installed {jina.__version__}; "
            f"install jina=={TESTED} (requirements.txt has it)."
        )


MENDS: tuple[Callable[[], None], ...] = (
    overlap_requests_of_a_stream,
    keep_order_behind_a_gateway,
    cancel_what_a_gateway_has_sent,
    send_to_the_replica_with_the_least_to_do,
    end_a_gateway_that_is_not_let_in,
    tell_no_addresses_of_executors,
    tell_clients_no_more_than_they_need,
    refuse_before_documents_are_read,
    count_no_bytes_in_the_environment,
    serve_as_the_executor_says,
    let_a_segfault_end_a_process,
    end_pods_at_once_while_they_load,
    keep_pods_serving,
    end_a_worker_with_its_parent_and_its_device,
    drain_gateways,
    connect_anew_after_a_failure,
    bear_keepalive_pings,
    say_whether_executors_can_be_reached,
    look_up_no_public_address,
    log_as_the_process_does,
)
