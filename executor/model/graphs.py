"""Programs: functions of fixed tensors, prepared once and run often.

A CUDA graph replays hundreds of kernels with one call of the host. What it computes depends on the contents of its
tensors alone, never on Python's values at the time, so that running it is: write the tensors, call, read the result.
Without a graph the same call runs the function itself. Knows CUDA graphs and TorchInductor. It must not know what is
computed.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor


class Capture(Protocol):
    """Makes programs of functions and tensors."""

    def __call__(self, function: Callable[..., Any], *tensors: Tensor) -> Callable[[], Any]:
        """Makes one program: to call it is to call `function(*tensors)` with what the tensors hold by then.

        Args:
            function: reads and writes the tensors; its result depends on them and on weights alone.
            tensors: whose memory stays the same for as long as the program is used.

        Returns:
            The program. What it returns may be overwritten by its next call.
        """


def call_directly(function: Callable[..., Any], *tensors: Tensor) -> Callable[[], Any]:
    """Makes a program without a graph. It is a `Capture`."""
    return partial(function, *tensors)


class CudaGraphs:
    """Captures programs as CUDA graphs. They share one pool of memory, so they must run one at a time.

    Args:
        device: a CUDA device.
        fuse: whether to compile each function with TorchInductor first, which takes minutes.
    """

    def __init__(self, device: torch.device, fuse: bool = False) -> None:
        self._device = device
        self._fuse = fuse
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[..., Any], *tensors: Tensor) -> Callable[[], Any]:
        """Runs `function` twice, then captures it; see `Capture`.

        Raises:
            RuntimeError: it cannot be captured, or there is no memory for it.
        """
        if self._fuse:
            function = torch.compile(function, fullgraph=True, dynamic=False, mode="max-autotune-no-cudagraphs")
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with (
            torch.cuda.device(self._device),
            torch.cuda.stream(stream),
            # One compilation for each shape: beyond the default of 8 they would silently run uncompiled.
            torch._dynamo.config.patch(recompile_limit=1024, accumulated_recompile_limit=4096),
        ):
            for _ in range(2):  # libraries make their handles and workspaces in the first call
                function(*tensors)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device), torch.cuda.graph(graph, pool=self._pool, stream=stream):
            result = function(*tensors)

        def replay() -> Any:
            graph.replay()
            return result

        return replay
