"""A person moves the arm: events of a device → what the person wants → short chunks for the executor. Without ROS.

    device → Event → Operator (dead-man, speed, frame, gripper) → Wish → Motion (kinematics, ways to rest) → ActionChunk

Nothing here reads a clock: times are given, so that a recorded stream of events plays like a device.
"""
