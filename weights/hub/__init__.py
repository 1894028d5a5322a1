"""Names on the hub -> local files, by huggingface_hub. Nothing here imports torch on its own."""
