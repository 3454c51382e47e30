"""Questions: what a client may ask, and how it is answered.

This room holds templates of prompts, generation options and presets. It must not know pictures, tokens, the model, Jina
or gRPC.
"""
