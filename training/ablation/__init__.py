"""The GPT paper's ablation (section 5) on small tasks: python -m training.ablation."""
