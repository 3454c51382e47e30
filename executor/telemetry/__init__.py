"""What can be seen of the service from outside: metrics, traces, logs, request ids.

The parts tell an `observer` of their work, and whoever listens is here. Looks at no other room but the error codes and
the version.
"""
