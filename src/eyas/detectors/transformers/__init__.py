"""Detectors of Hugging Face transformers."""
