"""Contextual pruning of open language models: the library under the stages. Importing it pulls in nothing."""
