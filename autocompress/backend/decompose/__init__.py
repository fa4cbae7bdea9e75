"""Low-rank decomposition: SVD, Tucker and CP factors."""
