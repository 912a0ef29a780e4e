"""What is done to the data: pure Python, no Prefect, callable from a notebook."""
