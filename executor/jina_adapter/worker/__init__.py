"""Mends of Jina in the process that serves an Executor: its server, its streams, its replies, its log."""
