"""RoboTwin 2.0 as the topics of a two-armed robot, by its official protocol; and a stand-in that needs no assets."""
