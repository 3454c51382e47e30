from jina import Deployment

from executor import Blip2Executor

with Deployment(uses=Blip2Executor, port=12345, timeout_ready=-1) as dep:
    dep.block()
