"""Fine-tuning the pruned model on the domain's text, on the Hugging Face Trainer."""
