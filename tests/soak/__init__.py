"""What the service is like after minutes and thousands of failures. `python -m tests.soak` runs it; tests do in short."""
