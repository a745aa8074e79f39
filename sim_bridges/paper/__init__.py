"""The paper beside our results: its methods and tables, and the study that compares its strategies."""
