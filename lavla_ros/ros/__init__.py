"""The ROS library: what nodes are made of (lifecycle, parameters, messages, diagnostics, inputs, arbitration)."""
