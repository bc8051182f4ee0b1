"""The HTTP front: an OpenAI-compatible API that asks the verifier over gRPC."""
