"""The child as a file that people run: GGUF for llama.cpp and Ollama, read back to be scored, with its model card."""
