"""Who is not in the stack's list of approved policies is followed at a quarter, and told how to be approved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from arms import HOME, Bench, chunk_of, ramp

from lavla_ros.config import ConfigError
from lavla_ros.control.actions import ActionDecoder
from lavla_ros.control.approved import load_approvals
from lavla_ros.control.wire import decode_chunk, encode_chunk
from lavla_ros.policy.folder import fingerprint
from lavla_ros.policy.policy import checkpoint_path


def test_the_bundled_policy_is_approved_in_the_shipped_list_and_nothing_else_is(tmp_path):
    approvals, bundled = load_approvals("policies"), checkpoint_path("bundled")
    assert approvals.objection(fingerprint(bundled)) == ""
    assert "header.frame_id" in approvals.objection("")
    other = tmp_path / "other"
    other.mkdir()
    for file in bundled.rglob("*"):
        if file.is_file():
            (other / file.relative_to(bundled)).parent.mkdir(exist_ok=True)
            (other / file.relative_to(bundled)).write_bytes(file.read_bytes())
    assert fingerprint(other) == fingerprint(bundled), "wherever it lies"
    with (other / "model.safetensors").open("r+b") as weights:
        weights.seek(-1, 2)
        weights.write(b"x")
    assert fingerprint(other) in approvals.objection(fingerprint(other))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("approved: [{source: ''}]", "a source"),
        ("approved: [{source: a}, {source: a}]", r"\['a'\].*each once"),
        ("approved: [{fingerprint: a}]", "fingerprint"),
        ("approved: a", "approved"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused(tmp_path, text, says):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_approvals(file)
    with pytest.raises(ConfigError, match="no_such_list"):
        load_approvals("no_such_list")


def test_a_chunk_is_followed_at_its_own_speed_scale_at_most():
    bench, offset = Bench(speed_scale=0.8, max_start_jump_rad=3.0, max_engage_jump_rad=3.0), np.array([1.5] + [0.0] * 5)
    full = bench.config.limits.velocity_rad_s[0]

    def fastest(most_speed):
        begin = len(bench.positions)
        chunk = bench.executor.prepare(chunk_of(ramp(HOME, offset, 0.6), bench.now_ns))
        sent = decode_chunk(encode_chunk(replace(chunk, most_speed=most_speed)))[1]
        assert bench.executor.submit_prepared(sent, bench.now_ns).accepted
        bench.tick(100)
        bench.executor.hold("over")
        bench.tick(100)
        offset[0] = -offset[0]
        return np.abs(np.diff(bench.positions[begin - 1 :, 0])).max() / 0.008

    offset[0] = -1.5
    assert 0.2 * full < fastest(0.25) <= 0.25 * full * (1 + 1e-6)
    assert 0.5 * full < fastest(1.0) <= 0.8 * full * (1 + 1e-6)
    bench.executor.set_speed_scale(0.1)
    assert fastest(0.25) <= 0.1 * full * (1 + 1e-6)
    bench.assert_within_limits()
    decoder = ActionDecoder(bench.contract, bench.config)
    with pytest.raises(ValueError, match="most_speed"):
        replace(decoder.prepare(chunk_of([HOME] * 3, bench.now_ns), HOME, bench.now_ns), most_speed=0.0)
