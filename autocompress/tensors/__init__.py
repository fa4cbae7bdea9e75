"""What networks read and put out, as tensors: shared by tasks, backend and formats."""
