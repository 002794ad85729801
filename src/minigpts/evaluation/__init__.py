"""Measuring a checkpoint: how well it predicts text and answers questions, and how it speaks."""
