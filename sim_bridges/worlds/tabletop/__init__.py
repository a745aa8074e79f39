"""A tabletop in MuJoCo: a JAKA MiniCobo with a parallel gripper, two cameras, tasks of the paper's Appendix F."""
