"""Scheduling: what waits, who is next, and what travels together.

This room bounds what is inside the service at a time, shares places among requests, forms batches for the device, and
keeps the order of streams. It moves items of any kind, so it must not know pictures, prompts or the model. It must not
know gRPC, and of Jina only the form of its `dynamic_batching`.
"""
