from executor import Flow

with Flow(port=54321).add(external=True, host=["10.0.0.1:54321", "10.0.0.2:54321"]) as flow:
    flow.block()
