"""Files that torch itself runs: an exported program (`pt2`), and tensors with their graph (`safetensors`)."""
