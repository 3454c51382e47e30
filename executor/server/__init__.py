"""The gRPC port and the process around it: who may call and how much, TLS, request ids, signals, health, the end.

Knows gRPC and Jina's runtime; knows neither pictures nor the model. Answers are the service's.
"""
