"""The solver: the plan of least predicted loss inside a budget."""
