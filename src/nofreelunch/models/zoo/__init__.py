"""Trained models that the package ships: NAME.safetensors and NAME.json, loaded as `zoo:NAME`."""
