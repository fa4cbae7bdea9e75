"""Kinds of tasks that `--task` names: each makes an `autocompress.Task` of a source."""
