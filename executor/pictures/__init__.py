"""Pictures: from what a client sends to the tensor that the model takes.

A picture comes as bytes, as a `data:` URI, from the network or from a local file. This room fetches it within limits,
decodes it safely and resizes it; read `loader` first. It must not know the model, prompts, batches, Jina or gRPC.
"""
