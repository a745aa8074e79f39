"""Rollouts of a real arm, judged by a person: rubrics, a protocol, the scores, and what comes of them."""
