"""ExecuTorch programs: operators of torch, most of them in delegates that XNNPACK runs."""
