"""GGUF files, as llama.cpp and its kin read them: in and out. The parser of the `gguf` package is not hardened, so the
API never takes a GGUF from a user."""
