"""`lavla doctor --live`: a real recorder and streams of a robot; what is missing is named."""

from __future__ import annotations

import threading
from pathlib import Path

from ros_harness import World, running, wait_until
from std_msgs.msg import String
from test_recorder_node import CONTRACT, MODULE, Robot

from benchmarks.doctor.chain import check_chain, first_broken
from benchmarks.doctor.live import listen
from lavla_ros.episode import ExecutorReport
from lavla_ros.ros.messages import LATCHED_QOS


def test_a_live_stack_is_heard_and_the_broken_link_is_named(world: World, tmp_path: Path) -> None:
    with running(MODULE, "recorder", tmp_path, root=str(tmp_path / "bags")):
        robot = Robot(world)
        state = world.node.create_publisher(String, "/executor/state", LATCHED_QOS)
        state.publish(String(data=ExecutorReport(state="fault", fault="collision", waiting_for="a person").to_json()))
        done = threading.Event()

        def move() -> None:
            while not done.wait(0.05):
                robot.step()

        mover = threading.Thread(target=move)
        mover.start()
        try:
            facts = wait_until(lambda: (heard := listen(CONTRACT, 2.0)).values and heard, "diagnostics of the recorder")
        finally:
            done.set()
            mover.join()
    assert facts.executor is not None and facts.executor.fault == "collision"
    assert facts.instruction == "Put the mango into the bowl." and facts.moved_rad > 0
    assert facts.states["/joint_states"].publishers == ("/world",) and facts.chunks.publishers == ()
    for camera in facts.cameras.values():
        assert camera.rate_hz > 3 and camera.publishers == ("/world",) and -0.1 < camera.latency_s < 2.0
    findings = {finding.name: finding for finding in check_chain(facts, CONTRACT)}
    assert findings["observation"].level == "ok" and findings["policy"].level == "wrong"
    assert "no policy node runs" in findings["policy"].seen and "fault: collision" in findings["executor"].seen
    assert first_broken(list(findings.values())).startswith("the chain is broken at the ")
