"""The solver: the plan of least predicted sensitivity within a budget."""
