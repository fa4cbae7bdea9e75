"""Layers in one form: what a layer class computes, and forms of recurrent and transposed layers by rows."""
