"""From a compressed network to the file that ships, and running that file."""
