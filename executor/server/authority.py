"""A host and a port as one text, as gRPC takes it. Knows no library."""


def authority_of(host: str, port: int) -> str:
    """Returns `host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
