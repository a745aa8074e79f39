"""JAKA MiniCobo: wire protocol, client, driver, kinematics. Standard library and numpy only."""
