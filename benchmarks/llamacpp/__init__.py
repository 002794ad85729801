"""llama.cpp itself, to compare with: its rounding, its mixtures of types, and how it reads a file. No part of the pipeline."""
