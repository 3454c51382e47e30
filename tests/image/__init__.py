"""The container image, built and run for real: `make image-test`. Needs root, podman, runc and mmdebstrap."""
