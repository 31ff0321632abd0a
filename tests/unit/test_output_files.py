"""Results are written whole, under a name that was free, and no finished clip is lost."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import soundstage.files as files
from soundstage.cli.results import kept
from soundstage.clip import Clip, read_provenance
from soundstage.errors import MediaError
from soundstage.files import NameTakenError, Reserved, check_writable, reserved_name, whole_file
from soundstage.media.container import read_metadata
from soundstage.request.request import Request
from tests.limits import LONG_S, ended

linux = pytest.mark.skipif(sys.platform != "linux", reason="names, devices and locks as Linux has them")
MP4 = (".mp4",)


def clip(prompt: str = "a") -> Clip:
    return Clip(np.zeros((2, 32, 32, 3), np.uint8), None, 24.0, {"request": Request(prompt=prompt).to_dict()})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- Names ------------------------------------------------------------------------------------------


@linux
@pytest.mark.parametrize(
    "name", ["y" * 251 + ".mp4", "concat:a.mp4", "-.mp4", "%03d.mp4", "a\nb.mp4", "ä?*.MP4"]
)
def test_any_name_that_the_folder_takes_is_written(tmp_path: Path, name: str) -> None:
    path = clip().save(tmp_path / name)
    assert names(tmp_path) == [name]
    assert path.stat().st_size > 500


@linux
def test_a_name_and_folder_that_are_no_utf_8_are_written(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"f\xfcr")
    folder.mkdir()
    path = clip().save(folder / os.fsdecode(b"\xfc.mp4"))
    assert path.stat().st_size > 500


@linux
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("y" * 252 + ".mp4", "too long"),
        ("x" * 5000 + "/a.mp4", "too long"),
        ("a\0.mp4", "zero byte"),
        ("file/a.mp4", "no folder"),
        ("pipe.mp4", "device or pipe"),
        ("full.mp4", "device or pipe"),
        ("read_only.mp4", "read-only"),
        ("loop.mp4", "cannot be written"),
        ("/proc/a.mp4", "cannot be written"),
    ],
)
def test_names_that_cannot_be_written_are_refused_before_the_work(
    tmp_path: Path, name: str, says: str
) -> None:
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "full.mp4").symlink_to("/dev/full")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "read_only.mp4").write_text("mine")
    (tmp_path / "read_only.mp4").chmod(0o444)
    before = names(tmp_path)
    with pytest.raises(MediaError, match=says) as error:
        check_writable(tmp_path / name, MP4)
    assert len(str(error.value)) < 500
    assert names(tmp_path) == before


@linux
def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    link = tmp_path / "a.mp4"
    link.symlink_to("far/b.mp4")
    clip().save(link)
    assert link.is_symlink()
    assert (tmp_path / "far/b.mp4").stat().st_size > 500


def test_a_full_disk_is_found_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(MediaError, match=r"the disk is full \(No space left on device\); make room"):
        check_writable(tmp_path / "a.mp4", MP4)
    assert names(tmp_path) == []


# --- Replacing --------------------------------------------------------------------------------------


def test_a_file_is_replaced_only_if_that_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("mine")
    with pytest.raises(NameTakenError, match="there already"):
        clip().save(path, overwrite=False)
    (tmp_path / "a.png").write_text("my picture")
    with pytest.raises(NameTakenError, match="there already"):
        clip().contact_sheet(tmp_path / "a.png", overwrite=False)
    assert path.read_text() == "mine"
    path.chmod(0o600)
    clip().save(path)
    assert path.stat().st_size > 500
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_a_library_wrote_for_its_owner_alone_is_as_any_other(tmp_path: Path) -> None:
    """safetensors puts a file of its own, of mode 600, in the place that it is given."""
    (tmp_path / "plain").touch()
    with whole_file(tmp_path / "weights") as part:
        other = tmp_path / "other"
        other.touch(0o600)
        other.replace(part)
    plain, weights = ((tmp_path / name).stat().st_mode for name in ("plain", "weights"))
    assert weights == plain


@pytest.mark.parametrize("links", [True, False])
def test_a_name_taken_meanwhile_is_left_alone(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links")

    if not links:
        monkeypatch.setattr(files.os, "link", no_link)
    with whole_file(tmp_path / "a", overwrite=False) as part:
        part.write_text("first")

    def late() -> None:
        with whole_file(tmp_path / "b", overwrite=False) as part:
            part.write_text("mine")
            (tmp_path / "b").write_text("theirs")

    with pytest.raises(NameTakenError, match="made meanwhile"):
        late()
    assert {name: (tmp_path / name).read_text() for name in names(tmp_path)} == {"a": "first", "b": "theirs"}


# --- Reserving --------------------------------------------------------------------------------------


def test_reserved_names_differ_and_are_free_again_unless_used(tmp_path: Path) -> None:
    with reserved_name(tmp_path, "a", ".mp4") as one, reserved_name(tmp_path, "a", ".mp4") as two:
        assert (one.path.name, two.path.name) == ("a.mp4", "a-2.mp4")
        with pytest.raises(NameTakenError, match="another process is making"):
            Reserved(one.path)
        clip().save(two.path)
    assert names(tmp_path) == ["a-2.mp4"]
    with reserved_name(tmp_path, "a", ".mp4") as again:
        assert again.path.name == "a.mp4"
        again.path.unlink()
        again.path.write_text("theirs")
        assert not again.held()
    assert (tmp_path / "a.mp4").read_text() == "theirs"


@linux
def test_an_empty_file_of_nobody_is_free(tmp_path: Path) -> None:
    """As a killed process leaves one, and `mktemp` makes one."""
    path = tmp_path / "a.mp4"
    path.touch()
    with Reserved(path) as name:
        assert name.held()
    assert names(tmp_path) == []


def test_a_long_stem_is_cut(tmp_path: Path) -> None:
    with reserved_name(tmp_path, "ü" * 200, ".mp4") as name:
        assert name.path.name == "ü" * 125 + ".mp4"


def test_many_processes_get_many_names(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from soundstage.files import reserved_name\n"
        "names = [reserved_name(Path(), 'a', '.mp4') for _ in range(20)]\n"
        "print(*(name.path for name in names), flush=True); sys.stdin.read()"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    lines = [process.stdout.readline().split() for process in running if process.stdout]
    for process in running:
        process.communicate("", timeout=LONG_S)
    assert len({name for line in lines for name in line}) == 60


# --- What is left behind ----------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from soundstage.files import whole_file
with whole_file(Path(sys.argv[1])) as part:
    part.write_text("half")
    print(part, flush=True)
    sys.stdin.read()
"""


@linux
def test_temporary_files_of_killed_processes_are_swept_and_others_kept(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / f"{i}.mp4")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    dead, alive = (Path(w.stdout.readline().strip()) for w in writers if w.stdout)
    writers[0].send_signal(signal.SIGKILL)
    writers[0].wait(10)
    assert dead.exists()
    (tmp_path / ".soundstage-00000000-1-00000000.part").touch()  # another machine's
    with whole_file(tmp_path / "c.mp4") as part:
        part.write_text("whole")
    assert not dead.exists()
    assert alive.exists()
    writers[1].communicate("", timeout=LONG_S)
    assert names(tmp_path) == [".soundstage-00000000-1-00000000.part", "1.mp4", "c.mp4"]


@linux
def test_without_locks_a_file_of_a_living_process_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(files.fcntl, "flock", no_locks)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    ended(gone)
    kept_name, swept = (
        tmp_path / f".soundstage-{files.MACHINE}-{n}-00000000.part" for n in (os.getppid(), gone.pid)
    )
    kept_name.touch()
    swept.touch()
    clip().save(tmp_path / "a.mp4")
    assert names(tmp_path) == [kept_name.name, "a.mp4"]


# --- A clip that cannot be written where it was to be ------------------------------------------------


@linux
def test_a_disk_that_fills_up_loses_no_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file in the folder fails half-way; the clip goes to the temporary folder."""
    full, spare, here = (tmp_path / name for name in ("full", "spare", "here"))
    for folder in (full, spare, here):
        folder.mkdir()
    whole = files._made

    def made(path: Path) -> int:
        if path.parent in (full, here):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return whole(path)

    monkeypatch.setattr(files, "_made", made)
    monkeypatch.setattr("tempfile.tempdir", str(spare))
    monkeypatch.chdir(here)
    path = kept(clip(), full / "a.mp4", MediaError("the disk is full"))
    assert path == spare / "a.mp4"
    assert path.stat().st_size > 500
    assert names(full) == []
    monkeypatch.setattr("tempfile.tempdir", str(full))
    with pytest.raises(MediaError, match="the disk is full"):
        kept(clip(), full / "a.mp4", MediaError("the disk is full"))


@linux
def test_a_file_that_cannot_grow_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import resource, sys, numpy as np; from soundstage.clip import Clip\n"
        "from soundstage.errors import MediaError; from soundstage import files\n"
        "files.TRIAL_BYTES = 10\n"
        "frames = np.random.default_rng(0).integers(0, 255, (9, 128, 192, 3), dtype=np.uint8)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))\n"
        "try: Clip(frames, None, 24.0).save('a.mp4')\n"
        "except MediaError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=LONG_S
    )
    assert "cannot write a.mp4" in done.stdout, done.stderr
    assert "File too large" in done.stdout
    assert names(tmp_path) == []


# --- Metadata ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["mp4", "wav"])
def test_odd_letters_of_a_prompt_do_not_stop_the_writing(tmp_path: Path, ending: str) -> None:
    made = clip()
    made.provenance["request"]["prompt"] = "zero\0 byte, f\udcfcr, “rain”"
    if ending == "wav":
        made = Clip(None, np.zeros((2, 480), np.float32), 24.0, made.provenance)
    path = made.save(tmp_path / f"a.{ending}")
    assert read_provenance(path) == json.loads(json.dumps(made.provenance))
    assert read_metadata(path)["title"] == "zero� byte, f�r, “rain”"
