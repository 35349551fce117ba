"""What only the page and its API need: Gradio's parts made to fit, where files lie, the brush, tools for models."""
