"""The journal: whatever happens to its end, what is read back is a whole beginning."""

import os
import random
import struct
from pathlib import Path

import pytest

from flashvsr_cli import resume
from flashvsr_cli.errors import ResumeError
from flashvsr_cli.resume import Journal, KeptPacket, find_difference, identify_source

FACTS = {"scale": 4.0, "settings": {"seed": 0, "strength": 1.0}}
# Times in decoding order of an encoder that reorders.
DECODING_ORDER = (0, 4, 2, 1, 3, 8, 6, 5, 7, 9)


def packet(pts: int) -> KeptPacket:
    return KeptPacket(pts, pts - 2, 1, (1, 25), pts == 0, bytes([pts]) * (pts + 1), b"alpha"[: pts % 6])


def fill(journal: Journal, times: tuple[int, ...] = DECODING_ORDER, n_frames: int = 10) -> None:
    for pts in range(n_frames):
        journal.add_frame(pts)
    for pts in times:
        journal.add_packet(packet(pts))


def open_begun(target: Path, facts: dict = FACTS) -> Journal:
    journal = Journal(target)
    journal.begin(facts, target.with_name(".out.part-1-00000000.mp4"))
    return journal


def test_what_is_put_in_comes_out(tmp_path: Path) -> None:
    first = open_begun(tmp_path / "out.mp4")
    assert first.n_done == 0
    fill(first)
    first.close()
    second = open_begun(tmp_path / "out.mp4")
    assert second.n_done == 10
    assert second.frames == list(range(10))
    assert list(second.packets()) == [packet(pts) for pts in DECODING_ORDER]
    second.close()


@pytest.mark.parametrize(("n_packets", "n_done"), [*enumerate((0, 1, 1, 1, 1, 5, 5, 5, 5, 9, 10))])
def test_only_whole_beginnings_count(tmp_path: Path, n_packets: int, n_done: int) -> None:
    """Packets 0 4 2 1 3: only with the fifth are pictures 0 to 4 complete."""
    journal = open_begun(tmp_path / "out.mp4")
    fill(journal, DECODING_ORDER[:n_packets])
    journal.close()
    again = open_begun(tmp_path / "out.mp4")
    assert again.n_done == n_done
    assert [p.pts for p in again.packets()] == list(DECODING_ORDER[:n_done])
    again.close()


def test_cut_or_damaged_anywhere_it_is_still_a_beginning(tmp_path: Path) -> None:
    journal = open_begun(tmp_path / "out.mp4")
    fill(journal)
    journal.close()
    whole = journal.path.read_bytes()
    rng = random.Random(0)
    for length in range(len(whole)):
        data = bytearray(whole[:length])
        if length % 2 and length > 4:
            data[rng.randrange(length)] ^= 1 << rng.randrange(8)
        journal.path.write_bytes(data)
        again = open_begun(tmp_path / "out.mp4")
        assert again.n_done in (0, 1, 5, 9, 10)
        assert list(again.packets()) == [packet(pts) for pts in DECODING_ORDER[: again.n_done]]
        # And it can be continued.
        again.add_frame(90)
        again.add_packet(packet(90))
        n_done = again.n_done
        again.close()
        last = open_begun(tmp_path / "out.mp4")
        assert last.n_done == n_done + 1
        assert last.frames == [*range(n_done), 90]
        last.close()


def test_many_sessions_add_up(tmp_path: Path) -> None:
    for session in range(5):
        journal = open_begun(tmp_path / "out.mp4")
        assert journal.n_done == session * 3
        for pts in range(journal.n_done, journal.n_done + 6):
            journal.add_frame(pts)
            if pts < journal.n_done + 3:
                journal.add_packet(packet(pts))
        journal.close()


def test_another_run_is_refused_with_the_reason(tmp_path: Path) -> None:
    journal = open_begun(tmp_path / "out.mp4")
    fill(journal)
    journal.close()
    before = journal.path.read_bytes()
    other = Journal(tmp_path / "out.mp4")
    with pytest.raises(ResumeError, match="settings seed was 0 and is 1") as caught:
        other.begin({**FACTS, "settings": {"seed": 1, "strength": 1.0}}, tmp_path / "x")
    assert str(journal.path) in caught.value.next_step
    other.close()
    assert journal.path.read_bytes() == before


def test_a_journal_of_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(resume, "FORMAT", "flashvsr journal 1")
        patch.setattr(resume, "_PACKET", struct.Struct("<qqqiiB"))
        journal = Journal(tmp_path / "out.mp4")
        journal.begin(FACTS, tmp_path / "x")
        journal.add_frame(0)
        journal._append(resume.PACKET, resume._PACKET.pack(0, 0, 1, 1, 25, 1) + b"old")
        journal.close()
    with pytest.raises(ResumeError, match="format was flashvsr journal 1 and is flashvsr journal 2"):
        open_begun(tmp_path / "out.mp4")


def test_two_processes_cannot_write_one_output(tmp_path: Path) -> None:
    journal = open_begun(tmp_path / "out.mp4")
    with pytest.raises(ResumeError, match="Another process"):
        Journal(tmp_path / "out.mp4")
    journal.close()
    open_begun(tmp_path / "out.mp4").close()


def test_the_unfinished_file_of_a_killed_session_is_removed(tmp_path: Path) -> None:
    journal = open_begun(tmp_path / "out.mp4")
    leftover = tmp_path / ".out.part-1-00000000.mp4"
    leftover.write_text("half")
    journal.close()
    again = Journal(tmp_path / "out.mp4")
    again.begin(FACTS, tmp_path / ".out.part-2-00000000.mp4")
    assert not leftover.exists()
    again.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_journal_that_says_nothing_is_not_left_behind(tmp_path: Path) -> None:
    Journal(tmp_path / "out.mp4").close()
    assert list(tmp_path.iterdir()) == []


def test_a_source_is_known_by_size_time_head_and_tail(tmp_path: Path) -> None:
    path = tmp_path / "in.mp4"
    data = bytearray(os.urandom(3 * 2**20))
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))
    first = identify_source(path)
    assert identify_source(path) == first
    os.utime(path, ns=(2, 2))
    assert find_difference(first, identify_source(path)) == "changed ns was 1 and is 2"
    for place in (0, len(data) - 1):
        changed = bytearray(data)
        changed[place] ^= 1
        path.write_bytes(changed)
        os.utime(path, ns=(1, 1))
        assert "sha256" in find_difference(first, identify_source(path))
    with pytest.raises(ResumeError):
        identify_source(tmp_path)
