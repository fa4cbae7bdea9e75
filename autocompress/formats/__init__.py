"""File formats: each a folder that writes a compressed network, predicts its bytes and runs it."""
