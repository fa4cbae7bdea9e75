"""The traced graph: layers, channel coupling, rescalable pairs, residual blocks, MACs."""
