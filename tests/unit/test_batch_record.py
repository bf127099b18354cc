"""What a batch remembers, and what it then makes, makes again, skips or leaves alone."""

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from flashvsr_cli.batch.choice import NOT_OURS, TOUCHED, Chooser, failed_last_time, settings_of
from flashvsr_cli.batch.plan import BatchItem
from flashvsr_cli.batch.record import RECORD_NAME, Entry, Record, Stamp, hash_content
from flashvsr_cli.errors import OutputError
from flashvsr_cli.jobs import Job
from flashvsr_cli.options import EncodeOptions, InputOptions

MODEL = {"settings": {"seed": 0}, "model": {"sha256": ["aa"], "version": "v1.1"}}
ENTRY = Entry("x/a.mp4", "done", {"scale": 4.0}, Stamp(3, 17), "ab" * 32, Stamp(9, 18))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.mkdir()
    return path


def test_what_is_written_is_read_again(folder: Path):
    record = Record(folder)
    failed = Entry("b\udcff\n.mp4", "failed", {}, error="It is empty.", n_attempts=2)
    for entry in (ENTRY, failed, replace(ENTRY, sha256=None)):
        record.add(entry)
    again = Record(folder)
    assert again.last == {"x/a.mp4": replace(ENTRY, sha256=None), failed.result: failed}
    assert again.made == {"x/a.mp4": replace(ENTRY, sha256=None)}
    assert again.notices == []
    assert again.key(folder / "x" / "a.mp4") == "x/a.mp4"


def test_a_failure_does_not_make_forgotten_how_the_file_that_is_there_was_made(folder: Path):
    record = Record(folder)
    record.add(ENTRY)
    record.add(Entry("x/a.mp4", "failed", {"scale": 2.0}, error="No."))
    again = Record(folder)
    assert again.last["x/a.mp4"].state == "failed"
    assert again.made["x/a.mp4"] == ENTRY


@pytest.mark.parametrize(
    "damage",
    [
        b"{\n",
        b"\0" * 50 + b"\n",
        b"[]\n",
        b"null\n",
        b'{"record": 1}\n',
        b'{"record": 2, "state": "done"}\n',
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        ENTRY.to_line().replace(b'"n_bytes":3', b'"n_bytes":"3"'),
        ENTRY.to_line().replace(b'"settings":{', b'"settings":[{').replace(b'"source"', b'],"source"'),
        ENTRY.to_line().replace(b'"result":"x/a.mp4"', b'"result":null'),
    ],
)
def test_a_damaged_line_counts_as_not_there(folder: Path, damage: bytes):
    kept = replace(ENTRY, result="kept.mp4")
    (folder / RECORD_NAME).write_bytes(kept.to_line() + damage + replace(kept, result="also.mp4").to_line())
    record = Record(folder)
    assert set(record.last) == {"kept.mp4", "also.mp4"}
    assert "1 line of" in record.notices[0]


def test_a_line_cut_short_does_not_spoil_the_next(folder: Path):
    path = folder / RECORD_NAME
    path.write_bytes(ENTRY.to_line()[:-20])
    Record(folder).add(replace(ENTRY, result="next.mp4"))
    assert set(Record(folder).last) == {"next.mp4"}
    assert len(path.read_bytes().splitlines()) == 2


def test_many_threads_write_whole_lines(folder: Path):
    record, other = Record(folder), Record(folder)
    entries = [replace(ENTRY, result=f"{i}.mp4") for i in range(40)]

    def add(i_thread: int) -> None:
        for entry in entries[i_thread::4]:
            (record if i_thread % 2 else other).add(entry)

    threads = [threading.Thread(target=add, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    again = Record(folder)
    assert set(again.last) == {entry.result for entry in entries}
    assert again.notices == []


def test_a_record_that_is_a_link_or_a_folder_is_refused(folder: Path, tmp_path: Path):
    other = tmp_path / "other"
    other.write_bytes(b"")
    path = folder / RECORD_NAME
    path.symlink_to(other)
    with pytest.raises(OutputError, match="is no regular file"):
        Record(folder)
    path.unlink()
    record = Record(folder)
    path.symlink_to(other)
    with pytest.raises(OutputError, match="cannot be written"):
        record.add(ENTRY)
    assert other.read_bytes() == b""
    path.unlink()
    path.mkdir()
    with pytest.raises(OutputError, match="is no regular file"):
        Record(folder)


def test_a_folder_that_is_not_there_has_an_empty_record(tmp_path: Path):
    assert Record(tmp_path / "out").last == {}
    assert not (tmp_path / "out").exists()


def test_a_hash_is_of_everything_and_can_be_stopped(tmp_path: Path):
    path = tmp_path / "a"
    path.write_bytes(bytes(9 * 2**20))
    whole = hash_content(path)
    with path.open("r+b") as file:
        file.seek(5 * 2**20)
        file.write(b"x")
    assert hash_content(path) != whole
    assert hash_content(path, lambda: True) is None


class Case:
    """One input and its result as a batch left them."""

    def __init__(self, folder: Path) -> None:
        self.item = BatchItem(folder.parent / "a.mp4", folder / "a.mp4")
        self.job = Job(str(self.item.source), str(self.item.target), scale=2.0)
        self.record = Record(folder)
        self.item.source.write_bytes(b"content")
        self.item.target.write_bytes(b"result")
        self.record.add(
            Entry(
                "a.mp4",
                "done",
                settings_of(self.job, MODEL),
                Stamp.of(self.item.source),
                hash_content(self.item.source),
                Stamp.of(self.item.target),
            )
        )

    def choose(self, job: Job | None = None, model: dict | None = None, **options: bool):
        record = Record(self.item.target.parent)
        return Chooser(record, lambda: model or MODEL, **options).choose(self.item, job or self.job)


@pytest.fixture
def case(folder: Path) -> Case:
    return Case(folder)


def later(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))


def test_the_same_content_and_settings_are_skipped(case: Case, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("flashvsr_cli.batch.choice.hash_content", None)  # nothing is read
    choice = case.choose()
    assert choice.job is None
    assert choice.reason is None


def test_limits_and_the_place_of_the_input_change_nothing(case: Case):
    job = replace(case.job, input=InputOptions(max_pixels=7), encode=EncodeOptions(max_pixels=9), source="elsewhere")
    assert case.choose(job).job is None


def test_a_new_time_alone_is_no_new_content_and_is_read_once(case: Case):
    later(case.item.source)
    told = []
    chooser = Chooser(Record(case.item.target.parent), lambda: MODEL, tell=told.append)
    assert chooser.choose(case.item, case.job).job is None
    assert len(told) == 1
    assert case.choose().job is None
    assert Record(case.item.target.parent).made["a.mp4"].source == Stamp.of(case.item.source)


@pytest.mark.parametrize("content", [b"another", b"longer than before"])
def test_new_content_is_made_again(case: Case, content: bytes):
    case.item.source.write_bytes(content)
    later(case.item.source)
    choice = case.choose()
    assert choice.job == replace(case.job, overwrite=True)
    assert choice.reason == "It is made again: its input has changed."


def test_other_settings_make_it_again_and_say_which(case: Case):
    choice = case.choose(replace(case.job, scale=4.0))
    assert choice.job.overwrite
    assert choice.reason == "It is made again: scale was 2 and is 4."
    choice = case.choose(replace(case.job, encode=EncodeOptions(crf=18)))
    assert choice.reason == "It is made again: encode crf was not given and is 18."
    other_model = {**MODEL, "model": {"sha256": ["bb"], "version": "v1.1"}}
    assert case.choose(model=other_model).reason == "It is made again: the model is another."


def test_encoder_options_do_not_concern_pictures(folder: Path):
    picture = Job("a.png", str(folder / "a.png"))
    assert settings_of(picture, MODEL) == settings_of(replace(picture, encode=EncodeOptions(crf=3)), MODEL)
    clip = Job("a.mp4", str(folder / "a.mp4"))
    assert settings_of(clip, MODEL) != settings_of(replace(clip, encode=EncodeOptions(crf=3)), MODEL)


def test_a_file_that_was_changed_since_is_left_alone_unless_it_may_be_replaced(case: Case):
    later(case.item.target)
    other = replace(case.job, scale=4.0)
    assert (case.choose(other).job, case.choose(other).reason) == (None, TOUCHED)
    assert case.choose(other, redo=True).job is None
    assert case.choose(other, overwrite=True).job == replace(other, overwrite=True)


def test_a_file_that_no_batch_made_is_left_alone_unless_it_may_be_replaced(case: Case):
    (case.item.target.parent / RECORD_NAME).unlink()
    assert (case.choose().job, case.choose().reason) == (None, NOT_OURS)
    assert case.choose(redo=True).job is None
    assert case.choose(overwrite=True).job.overwrite


def test_what_is_gone_is_made_and_needs_no_model(case: Case):
    case.item.target.unlink()

    def no_model() -> dict:
        raise AssertionError("not needed")

    choice = Chooser(Record(case.item.target.parent), no_model).choose(case.item, case.job)
    assert choice.job == case.job


def test_a_batch_can_be_asked_to_do_its_own_again(case: Case):
    assert case.choose(redo=True).job.overwrite
    assert case.choose(redo=True).reason == "It is made again, as asked."


def test_an_input_that_is_gone_is_tried_so_that_it_can_say_so(case: Case):
    case.item.source.unlink()
    assert case.choose().job is not None


def test_what_failed_last_time(folder: Path, tmp_path: Path):
    record = Record(folder)
    items = [BatchItem(tmp_path / name, folder / name) for name in ("a.mp4", "b.mp4", "c.mp4", "new.mp4")]
    for name, states in (("a.mp4", ["done", "failed"]), ("b.mp4", ["failed", "done"]), ("c.mp4", ["failed"])):
        for state in states:
            record.add(Entry(name, state, {}))
    assert [item.source.name for item in failed_last_time(items, record)] == ["a.mp4", "c.mp4"]


def test_a_line_is_json_that_anybody_can_read(folder: Path):
    Record(folder).add(ENTRY)
    (line,) = (folder / RECORD_NAME).read_text("ascii").splitlines()
    facts = json.loads(line)
    assert (facts["record"], facts["result"], facts["state"]) == (1, "x/a.mp4", "done")
