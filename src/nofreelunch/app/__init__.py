"""The local web page. What its tabs show is made here without Gradio; only `layout` and `server` know of that."""
