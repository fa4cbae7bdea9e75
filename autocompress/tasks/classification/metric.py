"""The metric of classification."""

from autocompress.core.metric import Metric

# The share of right answers. Studies stored before the metric's name was are of it.
ACCURACY = Metric("accuracy", unit="%", title="Accuracy", finer="cross_entropy")
