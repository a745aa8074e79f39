"""A person's console in the browser: see the arm, record and judge episodes, clear faults. It knows no ROS."""
