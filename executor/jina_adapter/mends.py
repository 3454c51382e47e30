"""Mends of Jina: what the release that this service is tested with does wrong or not well enough for it.

Each mend is a function that says what is wrong and replaces as little of Jina as it can. They change classes of Jina
for the whole process, and leave every Executor that does not keep the `contract` as it was. Those in `worker` concern
the process that serves an Executor; those in `orchestration` concern the program that opens a Deployment or Flow, the
processes that it starts, and gateways.

Where several wrap the same method of Jina, the last one in the list is the outermost:

- `GRPCServer.setup_server`: `say_whether_executors_can_be_reached` (sets the server up, then watches),
  `bear_keepalive_pings` (options), `drain_gateways` (an interceptor), `end_a_worker_with_its_parent_and_its_device`
  (before the port opens), `serve_as_the_executor_says` (instead of Jina's, innermost).
- `GRPCServer.shutdown`: `say_whether_executors_can_be_reached` (ends the watch last), `drain_gateways`,
  `serve_as_the_executor_says`.

So `serve_as_the_executor_says` comes before the others that wrap these two. Elsewhere order does not matter.
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
from executor.jina_adapter.worker.grpc_server import serve_as_the_executor_says
from executor.jina_adapter.worker.loggers import log_as_the_process_does
from executor.jina_adapter.worker.messages import count_no_bytes_in_the_environment
from executor.jina_adapter.worker.replies import refuse_before_documents_are_read, tell_clients_no_more_than_they_need
from executor.jina_adapter.worker.streams import overlap_requests_of_a_stream

TESTED = "3.34.0"
_APPLIED = "_blip2_mends_applied"

WORKER: tuple[Callable[[], None], ...] = (
    overlap_requests_of_a_stream,
    tell_clients_no_more_than_they_need,
    refuse_before_documents_are_read,
    count_no_bytes_in_the_environment,
    log_as_the_process_does,
    serve_as_the_executor_says,
)

ORCHESTRATION: tuple[Callable[[], None], ...] = (
    keep_order_behind_a_gateway,
    cancel_what_a_gateway_has_sent,
    send_to_the_replica_with_the_least_to_do,
    end_a_gateway_that_is_not_let_in,
    tell_no_addresses_of_executors,
    let_a_segfault_end_a_process,
    end_pods_at_once_while_they_load,
    keep_pods_serving,
    look_up_no_public_address,
    connect_anew_after_a_failure,
    end_a_worker_with_its_parent_and_its_device,
    drain_gateways,
    bear_keepalive_pings,
    say_whether_executors_can_be_reached,
)


def apply() -> None:
    """Mends Jina, once in a process.

    A Jina of another release is left as it is, so that programs which only ask can import the package.
    """
    if jina.__version__ != TESTED or hasattr(jina, _APPLIED):
        return
    for mend in (*WORKER, *ORCHESTRATION):
        mend()
    setattr(jina, _APPLIED, True)


def require() -> None:
    """Checks that the mends fit the installed Jina, without which nothing is served.

    Raises:
        StartupError: they do not.
    """
    if jina.__version__ != TESTED:
        raise StartupError(
            f"this service mends Jina {TESTED} and was not tested with the installed {jina.__version__}; "
            f"install jina=={TESTED} (requirements.txt has it)."
        )
