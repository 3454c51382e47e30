"""What becomes of the service in minutes under load: `python -m tests.soak`. The tests here are short runs of it."""
