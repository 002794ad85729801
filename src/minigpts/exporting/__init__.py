"""The child as a file that people run: GGUF for llama.cpp and Ollama, with its Modelfile."""
