"""The model: from pictures and token ids on the device to answers.

This room runs a loaded checkpoint: it encodes pictures, generates text in batches, keeps the features of pictures and
captures CUDA graphs; read `engine` first. It must not know where pictures come from, who asks, what waits, Jina or
gRPC.
"""
