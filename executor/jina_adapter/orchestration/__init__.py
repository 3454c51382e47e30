"""Mends of Jina where a Deployment or Flow is opened: the processes that it starts, and its gateways."""
