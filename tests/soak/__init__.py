"""The service under a mixed load, faults and restarts for as long as one likes: `python -m tests.soak --minutes 30`."""
