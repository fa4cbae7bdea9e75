"""The metric of classification."""

from autocompress.core.metric import Metric

ACCURACY = Metric("accuracy", unit="%", title="Accuracy", finer="cross_entropy")
"""The share of right answers. Studies stored before the metric's name was are of it."""
