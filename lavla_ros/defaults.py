"""What a command, a node or a suite takes if it is not told, for what more than one of them needs."""

from __future__ import annotations

DEFAULT_CONTRACT = "jaka_minicobo"
"""Contract, by the name of its file in config/contracts."""
BUNDLED_POLICY = "bundled"
"""Name of the policy that comes with the package."""
DEFAULT_DEVICE = "cpu"
"""Device that a policy runs on. Small policies are fastest there, and every machine has one."""
DEFAULT_DTYPE = "auto"
"""What a policy computes in: bfloat16 on a GPU that has it, else float32."""
REPLAN_STEPS = 10
"""Number of contract steps between two inferences, on the arm and where it is simulated."""
