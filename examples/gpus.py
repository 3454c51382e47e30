import signal
import sys

from executor import Blip2Executor, Deployment

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with Deployment(uses=Blip2Executor, port=54321, replicas=2, env={"CUDA_VISIBLE_DEVICES": "RR"}) as deployment:
    deployment.block()
