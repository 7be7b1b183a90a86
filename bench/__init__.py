"""Us beside the peers and beside the machine's limit: `python -m bench` measures, writes RESULTS.md and draws."""
