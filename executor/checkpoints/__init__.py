"""Checkpoints: from a hub id or a directory to a model in memory that is what it should be.

This room loads, checks, quantizes and copies checkpoints. It must not know requests, batches, pictures, Jina or gRPC.
"""
