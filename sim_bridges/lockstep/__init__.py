"""Any suite as ROS topics in lock-step, and demonstrations recorded from one."""
