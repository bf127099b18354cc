"""Which files a batch is about, and that no name leads a result out of the output folder."""

import os
from pathlib import Path

import pytest

from flashvsr_cli.batch.plan import BatchItem, check_place, plan_batch
from flashvsr_cli.errors import InputError, UsageError


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`tree("in/a.mp4", ...)` makes files in the folder in which the test runs."""
    monkeypatch.chdir(tmp_path)

    def make(*names: str) -> None:
        for name in names:
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")

    return make


def places(*inputs: str, target: str = "out", recursive: bool = False, extension: str | None = None) -> dict[str, str]:
    plan = plan_batch(inputs, Path(target), recursive=recursive, extension=extension)
    assert not plan.refused
    return {str(item.source): str(item.target) for item in plan.items}


def test_a_folder_alone_and_with_those_within(tree):
    tree("in/a2.mp4", "in/a10.mp4", "in/b.png", "in/deep/c.MPG", "in/notes.txt", "in/.hidden.mp4", "in/.git/d.mp4")
    assert places("in") == {"in/a2.mp4": "out/a2.mp4", "in/a10.mp4": "out/a10.mp4", "in/b.png": "out/b.png"}
    assert places("in", recursive=True)["in/deep/c.MPG"] == "out/deep/c.mkv"
    assert list(places("in", extension=".mkv").values()) == ["out/a2.mkv", "out/a10.mkv", "out/b.png"], "in that order"


def test_patterns_are_mirrored_from_their_first_wildcard_on(tree):
    tree("in/x/a.mp4", "in/x/deep/b.mp4", "in/y/c.mkv", "in/top.mp4", "in/x/.secret/d.mp4", "in/x/e.txt")
    assert places("in/*.mp4") == {"in/top.mp4": "out/top.mp4"}
    assert places("in/?/*") == {"in/x/a.mp4": "out/x/a.mp4", "in/y/c.mkv": "out/y/c.mkv"}
    assert places("in/**/*.mp4") == {
        "in/top.mp4": "out/top.mp4",
        "in/x/a.mp4": "out/x/a.mp4",
        "in/x/deep/b.mp4": "out/x/deep/b.mp4",
    }
    assert set(places("in/x/**")) == {"in/x/a.mp4", "in/x/deep/b.mp4"}
    assert places("in/x/*.txt") == {"in/x/e.txt": "out/e.txt.mkv"}, "asked for by its suffix"
    assert places(f"{Path.cwd()}/in/[x]/*.mp4") == {f"{Path.cwd()}/in/x/a.mp4": "out/x/a.mp4"}


def test_files_by_name(tree):
    tree("in/a[1].mp4", "in/tape.001", "b.mp4", "sub/c.mp4")
    os.chdir("sub")
    assert places("../in/a[1].mp4", "../in/tape.001", "../b.mp4", "c.mp4") == {
        "../in/a[1].mp4": "out/a[1].mp4",
        "../in/tape.001": "out/tape.001.mkv",
        "../b.mp4": "out/b.mp4",
        "c.mp4": "out/c.mp4",
    }
    assert places("..", target="../../out", recursive=True)["../sub/c.mp4"] == "../../out/sub/c.mp4"


def test_a_file_that_is_called_as_standard_input_is(tree, tmp_path: Path):
    tree("-")
    assert places("-") == {str(tmp_path / "-"): "out/-.mkv"}
    assert places("./-") == {str(tmp_path / "-"): "out/-.mkv"}


def test_the_same_file_named_twice_is_one_input(tree):
    tree("in/a.mp4")
    assert places("in", "in/a.mp4", "in/*.mp4") == {"in/a.mp4": "out/a.mp4"}


@pytest.mark.parametrize(
    ("names", "inputs", "taken", "said"),
    [
        (("in/a.mp4", "in/A.mp4"), ("in",), "in/A.mp4", "A.mp4 and a.mp4 would both become out/A.mp4"),
        (("in/é.mp4", "in/e\u0301.mp4"), ("in",), "in/e\u0301.mp4", "would both become"),
        (("x/a.mp4", "y/a.mp4"), ("x", "y"), "x/a.mp4", "x/a.mp4 and y/a.mp4 would both become out/a.mp4"),
        (("in/a.mpg", "in/a.mkv"), ("in",), "in/a.mkv", "a.mkv and a.mpg would both become out/a.mkv"),
        (("in/a.asf", "in/a.mkv"), ("in",), "in/a.mkv", "a.asf and a.mkv would both become out/a.mkv"),
        (("in/a.asf", "in/a.wmv"), ("in",), "in/a.asf", "a.asf and a.wmv would both become out/a.mkv"),
    ],
)
def test_of_two_inputs_for_one_output_one_is_refused(tree, names, inputs, taken, said):
    tree(*names, f"{inputs[0]}/b.mp4")
    plan = plan_batch(inputs, Path("out"), recursive=False, extension=None)
    assert {str(item.source) for item in plan.items} == {taken, f"{inputs[0]}/b.mp4"}
    ((path, error),) = plan.refused
    assert {taken, str(path)} == set(names)
    assert said in error.message
    assert f"only {taken} is taken" in error.message


def test_three_inputs_for_one_output(tree):
    tree("in/a.asf", "in/a.mkv", "in/a.wmv")
    plan = plan_batch(["in"], Path("out"), recursive=False, extension=None)
    assert [str(item.source) for item in plan.items] == ["in/a.mkv"]
    assert [str(path) for path, _ in plan.refused] == ["in/a.asf", "in/a.wmv"]


def test_two_inputs_for_one_output_through_a_link(tree):
    tree("in/x/a.mp4", "in/y/a.mp4", "out/x/kept")
    Path("out/y").symlink_to("x")
    plan = plan_batch(["in"], Path("out"), recursive=True, extension=None)
    assert [str(item.source) for item in plan.items] == ["in/x/a.mp4"]
    assert [str(path) for path, _ in plan.refused] == ["in/y/a.mp4"]


@pytest.mark.parametrize("suffix", ["asf", "3g2", "f4v", "divx", "dv", "m2v", "ogm", "trp", "wmv", "MTS"])
def test_videos_that_can_only_be_read(tree, suffix):
    tree(f"in/a.{suffix}")
    assert places("in") == {f"in/a.{suffix}": "out/a.mkv"}


@pytest.mark.parametrize(
    ("inputs", "target", "said"),
    [
        (("nowhere",), "out", "nowhere does not exist"),
        (("-",), "out", "- does not exist"),
        (("in",), "in", "same"),
        (("in",), "in/../in", "same"),
        (("in/*.mp4",), "in", "same"),
        (("in/a.mp4",), "in", "would replace the input in/a.mp4"),
        (("in/*/../../*.mp4",), "out", "goes up again"),
        (("lost/*.mp4",), "out", "lost, where the pattern lost/[*].mp4 begins, is not a folder"),
        (("fifo.mp4",), "out", "neither a file nor a folder"),
    ],
)
def test_what_makes_no_sense(tree, inputs, target, said):
    tree("in/a.mp4")
    os.mkfifo("fifo.mp4")
    with pytest.raises(UsageError, match=said):
        places(*inputs, target=target)


@pytest.mark.parametrize("extension", ["../mkv", "/etc/passwd", "", ".", "m/kv"])
def test_extensions_that_are_none(tree, extension: str):
    tree("in/a.mp4")
    with pytest.raises(UsageError, match="is not an extension"):
        places("in", extension=extension)


def test_nothing_to_do(tree):
    tree("in/notes.txt", "more/a.mp4")
    with pytest.raises(InputError, match="in holds no video or picture"):
        places("in")
    with pytest.raises(InputError, match="No video or picture matches"):
        places("in/*.mp4")
    plan = plan_batch(["in", "more"], Path("out"), recursive=False, extension=None)
    assert [str(item.source) for item in plan.items] == ["more/a.mp4"]
    assert plan.notices == ["in holds no video or picture."]


def test_results_below_the_input_are_no_inputs(tree):
    tree("in/a.mp4", "in/out/a.mp4", "in/out/deep/b.mp4")
    Path("in/again.mp4").symlink_to("out/a.mp4")
    for inputs in (("in",), ("in/**",)):
        assert places(*inputs, target="in/out", recursive=True) == {"in/a.mp4": "in/out/a.mp4"}


def test_linked_folders_are_followed_once_and_loops_end(tree):
    tree("in/real/a.mp4", "elsewhere/b.mp4")
    Path("in/0-same").symlink_to("real")
    Path("in/real/up").symlink_to("..")
    Path("in/real/self").symlink_to("self")
    Path("in/far").symlink_to(Path("elsewhere").absolute())
    assert places("in", recursive=True) == {"in/real/a.mp4": "out/real/a.mp4", "in/far/b.mp4": "out/far/b.mp4"}


def test_a_linked_file_is_read_and_its_result_has_the_name_of_the_link(tree):
    tree("in/kept", "elsewhere/deep/b.mp4")
    Path("in/a.mp4").symlink_to(Path("elsewhere/deep/b.mp4").absolute())
    assert places("in") == {"in/a.mp4": "out/a.mp4"}


def test_a_link_to_nowhere_is_an_input_and_a_device_is_none(tree):
    tree("in/a.mp4")
    Path("in/gone.mp4").symlink_to("nowhere.mp4")
    Path("in/loop.mp4").symlink_to("loop.mp4")
    Path("in/null.mp4").symlink_to("/dev/zero")
    os.mkfifo("in/fifo.mp4")
    assert set(places("in")) == {"in/a.mp4", "in/gone.mp4", "in/loop.mp4"}


def test_odd_names(tree):
    names = ["in/new\nline.mp4", "in/\x1b[31mred.mp4", "in/-rf.mp4", "in/%d.mp4", "in/~.mp4", "in/ü💥.mp4"]
    tree(*names, os.fsdecode(b"in/\xff\xfe.mp4"))
    assert places("in") == {str(path): str(Path("out", path.name)) for path in Path("in").iterdir()}, (
        "each in its place"
    )


def test_a_folder_that_nobody_may_look_into_does_not_stop_the_rest(tree, monkeypatch: pytest.MonkeyPatch):
    tree("in/a.mp4", "in/locked/b.mp4")
    look = Path.iterdir

    def refuse(path: Path):
        if path.name == "locked":
            raise PermissionError(13, "Permission denied")
        return look(path)

    monkeypatch.setattr(Path, "iterdir", refuse)  # tests may run as root, whom nothing refuses
    plan = plan_batch(["in"], Path("out"), recursive=True, extension=None)
    assert [str(item.source) for item in plan.items] == ["in/a.mp4"]
    ((folder, error),) = plan.refused
    assert str(folder) == "in/locked"
    assert error.message == "The folder in/locked cannot be read: permission denied."


def check(target: str) -> None:
    check_place(BatchItem(Path("in/a.mp4"), Path(target)), Path("out"))


def test_places_inside_the_output_folder(tree):
    tree("out/x/kept", "elsewhere/kept")
    check("out/a.mp4")
    check("out/not/there/yet/a.mp4")
    Path("out/inside").symlink_to("x")
    check("out/inside/a.mp4")
    Path("linked").symlink_to("out")
    check_place(BatchItem(Path("in/a.mp4"), Path("linked/x/a.mp4")), Path("linked"))


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("out/away/a.mp4", "out/away is a link that leads out of out"),
        ("out/away/deep/a.mp4", "leads out of out"),
        ("out/../a.mp4", "leads out of out"),
        ("out/link.mp4", "out/link.mp4 is a link"),
        ("out/dangling.mp4", "out/dangling.mp4 is a link"),
        ("out/folder.mp4", "out/folder.mp4 is a folder"),
        ("out/shot-%03d.png", "stands for numbered pictures"),
    ],
)
def test_places_that_are_refused(tree, target: str, said: str):
    tree("out/folder.mp4/kept", "elsewhere/b.mp4")
    Path("out/away").symlink_to(Path("elsewhere").absolute())
    Path("out/link.mp4").symlink_to(Path("elsewhere/b.mp4").absolute())
    Path("out/dangling.mp4").symlink_to("/nowhere/a.mp4")
    with pytest.raises(UsageError, match=said):
        check(target)
