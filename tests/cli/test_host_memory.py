"""Memory of the whole process does not grow with the clip's length."""

import json

import pytest

SIZE = (64, 64)
ALL_OUTPUT_BYTES = (600 - 60) * 256 * 256 * 3


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ten_times_the_frames_need_no_more_memory(flashvsr, make_clip):
    peaks = {}
    for n_frames in (60, 600):
        make_clip(f"{n_frames}.mp4", n_frames, SIZE, has_audio=True)
        done = flashvsr("upscale", f"{n_frames}.mp4", "-o", f"out{n_frames}.mp4", "-q", "--report", "-", timeout_s=900)
        assert done.code == 0, done.stderr
        report = json.loads(done.stdout)
        assert report["frames_out"] == n_frames
        peaks[n_frames] = report["peak_host_bytes"]
    assert peaks[600] < 1.1 * peaks[60]
    assert peaks[600] - peaks[60] < ALL_OUTPUT_BYTES / 2, "keeping the frames would show"
