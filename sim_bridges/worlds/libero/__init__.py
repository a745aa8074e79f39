"""LIBERO as ROS topics: the benchmark's own simulation under the project's contract."""
