"""autocompress"""
