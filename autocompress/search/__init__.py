"""The only home of Optuna. It sees a `Space` and a function from plan and rung to evaluation, nothing of torch."""
