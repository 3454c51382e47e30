"""Drawn pictures, questions about them, and the small BLIP-2 that is trained on both. Knows nothing of the service."""
