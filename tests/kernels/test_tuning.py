"""A short list of candidates, timed by a timer that is given, and what is kept of it on disk."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cascade
from cascade.ir.extents import bind
from tests.examples.test_examples import spec

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from cascade.backends.triton import candidates, tiles, tuning  # noqa: E402
from cascade.backends.triton.aot import Facts  # noqa: E402
from cascade.backends.triton.candidates import Call, machine, shortlist  # noqa: E402
from cascade.backends.triton.launch import TritonKernel  # noqa: E402
from cascade.backends.triton.tiles import Candidate, can_be_held  # noqa: E402
from cascade.backends.triton.tuning import Store, Tried, Tuning, bucket, measured, tuned  # noqa: E402
from cascade.schedule.cost import Cost, Launch  # noqa: E402
from tests.kernels.test_ahead_of_time import compile_for  # noqa: E402
from tests.kernels.test_interpreter import against_torch, attention  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

H100 = machine("NVIDIA H100 80GB HBM3", "sm_90", 132)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def call(name="attention", dtype="bf16", given=(), small=(), **extents):
    made = spec(name)
    made = replace(
        made,
        inputs=tuple(
            replace(t, dtype={"int": "i64"}.get(t.dtype or dtype, dtype)) for t in made.inputs
        ),
    )
    sizes = dict(b=2, h=16, p=2048, m=2048, e=64, f=64) | extents
    shapes = {t.name: tuple(sizes[r] for r in t.ranks) for t in made.inputs}
    bound = bind(
        made, shapes, {n: v for n, v in sizes.items() if n not in made.rank and n[0].isupper()}
    )
    known = {**bound.extents, **{n: v for n, v in bound.values.items() if type(v) is int}}
    return Call(made, bound.values, known, dict(small), dict(given))


def listed(found):
    return [(p.candidate.rows, p.candidate.stream) for p in found.planned]


# -- the list
@pytest.mark.parametrize("name", ["attention", "causal", "entropy"])
@pytest.mark.parametrize("width", [64, 128, 256])
def test_the_list_is_short_and_in_order(name, width):
    found = shortlist(call(name, e=width, f=width), H100)
    assert 3 <= len(found.planned) <= candidates.MOST
    seconds = [p.seconds for p in found.planned if p.seconds is not None]
    assert len(seconds) == len(found.planned)
    assert seconds == sorted(seconds) and min(seconds) > 0
    assert len({p.candidate for p in found.planned}) == len(found.planned)
    assert len(set(listed(found))) > 1


def test_many_rows_are_for_long_queries_and_few_for_one():
    assert listed(shortlist(call("causal", p=8192, m=8192, e=128, f=128), H100))[0][0] == 128
    assert listed(shortlist(call("attention", p=1, m=65536), H100))[0][0] == 16
    long = {r for r, _ in listed(shortlist(call("causal", p=8192, m=8192), H100))}
    assert min(long) >= 64


def test_a_long_sequence_is_ranked_without_a_visit_to_each_tile():
    assert listed(shortlist(call("causal", p=2**20, m=2**20), H100))[0][0] == 128


def test_what_does_not_fit_is_left_out():
    found = shortlist(call("attention", e=128, f=128), H100)
    assert found.left_out["shared memory"] > 0 and found.left_out["registers"] > 0
    for p in found.planned:
        assert can_be_held(p.program, p.candidate.warps)
        cost = Cost(p.program, None, dict(p.program.widths), dict.fromkeys("QKV", "bf16"))
        assert cost.needs(Launch(p.candidate.warps, p.candidate.stages)).shared <= H100.shared
    small = shortlist(call("attention", e=128, f=128), machine("RTX 4090", "sm_89"))
    assert small.left_out["shared memory"] > found.left_out["shared memory"]


def test_nothing_is_compiled_for_the_list(monkeypatch):
    monkeypatch.setattr("cascade.backends.triton.aot._compile", None)
    assert shortlist(call(), H100).planned


@pytest.mark.parametrize(
    ("name", "width", "set_tiles", "stages"),
    [
        ("causal", 128, (128, 64), 3),
        pytest.param("attention", 64, (128, 128), 2, marks=pytest.mark.slow),
        pytest.param("causal", 64, (64, 64), 3, marks=pytest.mark.slow),
    ],
)
def test_shared_memory_is_what_the_compiler_takes(tmp_path, name, width, set_tiles, stages):
    rows, stream = set_tiles
    how = ["--tile", f"p={rows},m={stream}", "--stages", str(stages)]
    (found,) = compile_for(tmp_path, name, width, *how)["kernels"]
    wanted = call(name, given={"p": rows, "m": stream}, e=width, f=width)
    _, program = candidates.plan(wanted, Candidate(rows, stream, 8, stages))
    cost = Cost(program, None, dict(program.widths), dict.fromkeys("QKV", "bf16"))
    assert cost.needs(Launch(found["num_warps"], stages)).shared == found["shared_bytes"]


def test_what_shared_memory_cannot_hold_is_not_compiled(monkeypatch):
    compiled = []

    def facts(program, source, target, dtype, options, until=False, first=()):
        compiled.append((options.num_warps, options.num_stages))
        return [Facts("O", target, 255, 0, 1, 0, 0, *compiled[-1], True)]

    monkeypatch.setattr(tiles, "facts", facts)
    wide = {"e": 128, "f": 128}
    made = tiles.chosen(spec("differential_attention"), wide, "sm_90")
    assert made.candidate == Candidate(128, 64, 8, 3) and len(compiled) == 1
    assert tiles.shared_bytes(made.program, Candidate(128, 128, 8, 2), "bf16") > 0
    tiles.chosen(spec("differential_attention"), wide, "sm_90", tiles={"p": 128, "m": 128})
    assert compiled[-1] == (8, 3)  # what is set is compiled, to say what it needs


def test_tiles_that_are_set_stay():
    found = shortlist(call("causal", given={"p": 16, "m": 32}), H100)
    assert 1 < len(found.planned) <= candidates.MOST
    assert len({p.program for p in found.planned}) == 1
    assert "p_tile * 16" in str(found.planned[0].program)
    assert "tiles of 32" in str(found.planned[0].program)


def test_bounds_that_are_data_have_no_rank_but_candidates():
    found = shortlist(call("sliding_window", window=1, sinks=1), H100)
    assert found.planned and all(p.seconds is None for p in found.planned)
    given = call("sliding_window", window=1, sinks=1, small={"window": np.full(16, 100)})
    assert all(p.seconds is not None for p in shortlist(given, H100).planned)


@pytest.mark.parametrize(
    ("name", "architecture", "target"),
    [
        ("NVIDIA H200", "sm_90", "H200"),
        ("NVIDIA H100 PCIe", "sm_90", "H100"),
        ("NVIDIA A100-SXM4-40GB", "sm_80", "A100"),
        ("NVIDIA RTX A6000", "sm_86", "A100"),
        ("NVIDIA Unheard Of", "sm_123", "H100"),
    ],
)
def test_targets_of_devices(name, architecture, target):
    assert target in machine(name, architecture).target.name
    assert machine(name, architecture, 7).target.multiprocessors == 7


# -- timing
class Planned:
    """A timer with planned times, in the order of the candidates; it counts."""

    def __init__(self, *times, run=False):
        self.times, self.run, self.asked = times, run, 0

    def __call__(self, call):
        n, self.asked = self.asked, self.asked + 1
        if self.run:
            call()
        if isinstance(self.times[n % len(self.times)], Exception):
            raise self.times[n % len(self.times)]
        return self.times[n % len(self.times)]


THREE = [(Candidate(128, 64, 8, n), n * 1e-5) for n in (1, 2, 3)]


def test_the_fastest_is_chosen():
    tried, best = measured(THREE, lambda c: lambda: c, Planned(3e-3, 1e-3, 2e-3))
    assert best == THREE[1][0]
    assert [t.seconds for t in tried] == [3e-3, 1e-3, 2e-3]
    assert [t.predicted for t in tried] == [p for _, p in THREE]


def test_a_candidate_that_fails_is_dropped():
    timer = Planned(RuntimeError("out of resources: shared memory\nmore"), 2e-3, float("nan"))
    tried, best = measured(THREE, lambda c: lambda: c, timer)
    assert best == THREE[1][0]
    assert tried[0].error == "RuntimeError: out of resources: shared memory"
    assert tried[2].seconds is None and "ValueError" in tried[2].error

    def build(candidate):
        raise SyntaxError(str(candidate.stages))

    known = {THREE[1][0]: "not compiled in time"}
    tried, best = measured(THREE, lambda c: lambda: c, Planned(3e-3, 2e-3), known)
    assert best == THREE[2][0] and tried[1].error == "not compiled in time"
    tried, best = measured(THREE, build, Planned(1.0))
    assert best is None and [t.error for t in tried] == [f"SyntaxError: {n}" for n in (1, 2, 3)]


def test_an_interrupt_is_no_failure():
    def timer(call):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(THREE, lambda c: lambda: c, timer)


class Clock:
    """A device on which calls take as long as they say, one after another; writing takes 1 s."""

    def __init__(self, monkeypatch, room=True):
        self.now, self.written = 0.0, 0
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda n: self)
        monkeypatch.setattr(torch.cuda, "Event", self.event)
        monkeypatch.setattr(torch, "empty", self.memory)
        self.L2_cache_size, self.room = 100, room

    def event(self, enable_timing):
        clock = self

        class Event:
            def record(self):
                self.at = clock.now

            def elapsed_time(self, end):
                return 1e3 * (end.at - self.at)

        return Event()

    def memory(self, size, **_):
        if size and not self.room:
            raise torch.cuda.OutOfMemoryError
        clock = self

        class Memory:
            def zero_(self):
                clock.now += 1
                clock.written += size

        return Memory()

    def call(self, *seconds):
        left = iter(seconds)

        def call():
            self.now += next(left)

        return call


def test_the_median_of_rounds_between_events(monkeypatch):
    clock = Clock(monkeypatch)
    call = clock.call(9.0, 1e-3, *(1e-3, 3e-3, 2e-3) * 5)  # the first call compiles
    assert tuning.by_events(call) == pytest.approx(2e-3)
    assert clock.written == 16 * tuning.AHEAD * 200
    slow = clock.call(9.0, 2.0, *[2.0] * tuning.LEAST_ROUNDS)
    assert tuning.by_events(slow) == pytest.approx(2.0)


def test_rounds_of_several_calls(monkeypatch):
    clock = Clock(monkeypatch, room=False)
    calls = [clock.call(9.0, *[1.0] * 4), clock.call(9.0, *[2.0] * 4)]
    assert np.allclose(tuning.times_by_events(calls, 3), [[1.0, 2.0]] * 3)
    assert clock.written == 0


def test_a_report_is_a_table():
    tried, best = measured(THREE, lambda c: lambda: c, Planned(3e-3, 1e-3, ValueError("no")))
    text = str(Tuning("attention", "H100", tried, best, {"registers": 4}))
    assert text.splitlines() == [
        "attention on H100, measured now",
        "rows  stream  warps  stages  model  measured",
        "128   64      8      1       10 us  3 ms",
        "128   64      8      2       20 us  1 ms      chosen",
        "128   64      8      3       30 us  -         ValueError: no",
        "left out for lack of registers: 4",
    ]


# -- on disk
KEY = {"cascade": "text", "extents": {"m": 1024}, "versions": {"cascade": "1", "triton": "3"}}
FOUND = Tuning("t", "d", (Tried(THREE[0][0], None, 1e-3), Tried(THREE[1][0], 1e-3, None, "no")),
               THREE[0][0], {"registers": 2})  # fmt: skip


def never():
    raise AssertionError("there was something on disk")


def test_what_was_found_is_kept(folder):
    assert tuned(Store(folder), KEY, lambda: FOUND) == FOUND
    again = tuned(Store(folder), KEY, never)
    assert again == replace(FOUND, kept=True)
    assert "from an earlier run" in str(again)
    assert not list(folder.glob("*.tmp"))


@pytest.mark.parametrize("part", ["cascade", "extents", "versions"])
def test_another_key_is_another_file(folder, part):
    tuned(Store(folder), KEY, lambda: FOUND)
    assert Store(folder).read({**KEY, part: "other"}) is None


def written(folder) -> Path:
    tuned(Store(folder), KEY, lambda: FOUND)
    return Store(folder).path(KEY)


def changed(text: str, **more) -> str:
    entry = json.loads(text)
    for name, value in more.items():
        *path, last = name.split("__")
        inner = entry
        for p in path:
            inner = inner[int(p) if p.isdigit() else p]
        inner[last] = value
    return json.dumps(entry)


@pytest.mark.parametrize(
    "more",
    [
        {"format": 99},
        {"key": {"cascade": "foreign"}},
        {"tuning": []},
        {"tuning__chosen": None},
        {"tuning__chosen__rows": 100},
        {"tuning__chosen__warps": "8"},
        {"tuning__chosen__stages": True},
        {"tuning__tried": []},
        {"tuning__tried__0__seconds": float("nan")},
        {"tuning__tried__0__seconds": -1.0},
        {"tuning__left_out": 3},
    ],
    ids=str,
)
def test_a_file_that_is_not_what_it_should_be_is_written_again(folder, more):
    path = written(folder)
    path.write_text(changed(path.read_text(), **more))
    assert Store(folder).read(KEY) is None
    assert tuned(Store(folder), KEY, lambda: FOUND) == FOUND
    assert Store(folder).read(KEY) is not None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"null", b"[]", b"\xff\xfe", b"[" * 10**5, b"\x80\x04."]
)
def test_a_broken_file_is_written_again(folder, content):
    path = written(folder)
    path.write_bytes(content)
    assert Store(folder).read(KEY) is None
    tuned(Store(folder), KEY, lambda: FOUND)
    assert Store(folder).read(KEY) == replace(FOUND, kept=True)


def test_half_a_file_is_none(folder):
    path = written(folder)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 7):
        path.write_bytes(whole[:length])
        assert Store(folder).read(KEY) is None


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert tuned(Store(blocked / "cache"), KEY, lambda: FOUND) == FOUND
    assert tuned(Store(blocked), KEY, lambda: FOUND) == FOUND


def test_where_nothing_could_be_run_nothing_is_kept(folder):
    tuned(Store(folder), KEY, lambda: replace(FOUND, chosen=None))
    assert Store(folder).read(KEY) is None


MEASURES = """
import os, sys, time
from pathlib import Path
from cascade.backends.triton.tiles import Candidate
from cascade.backends.triton.tuning import Store, Tuning, measured, tuned

folder, log, go, key = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), eval(sys.argv[4])
candidates = [(Candidate(128, 64, 8, n), None) for n in (1, 2, 3)]

def timer(call):
    with open(log, "a") as file:
        file.write("timed\\n")
    time.sleep(0.05)
    return call()

def measure():
    tried, best = measured(candidates, lambda c: lambda: c.stages * 1e-3, timer)
    return Tuning("t", "d", tried, best)

print("ready", flush=True)
while not go.exists():
    time.sleep(0.001)
assert tuned(Store(folder), key, measure).chosen == candidates[0][0]
"""

WRITES = """
import sys, time
from pathlib import Path
from cascade.backends.triton.tiles import Candidate
from cascade.backends.triton.tuning import Store, Tried, Tuning

candidate = Candidate(128, 64, 8, 1)
found = Tuning("t", "d", (Tried(candidate, None, 1e-3),), candidate)
print("ready", flush=True)
end = time.monotonic() + 2
while time.monotonic() < end:
    Store(Path(sys.argv[1])).write(eval(sys.argv[2]), found)
"""


def processes(number: int, text: str, *arguments: object) -> list[Any]:
    """Python processes that are about to begin."""
    command = [sys.executable, "-c", text, *map(str, arguments)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(number)]
    for p in started:
        assert p.stdout is not None and p.stdout.readline() == "ready\n"
    return started


def finish(started: list[Any]) -> None:
    for p in started:
        p.communicate(timeout=120)
        assert p.returncode == 0


def test_of_processes_at_once_one_measures(folder, tmp_path):
    log, go = tmp_path / "log", tmp_path / "go"
    started = processes(3, MEASURES, folder, log, go, KEY)
    go.touch()
    finish(started)
    assert len(log.read_text().split()) == 3
    assert Store(folder).read(KEY) is not None


def test_a_process_that_dies_leaves_no_lock(folder, tmp_path):
    holds = "with Store(folder).locked(key): print('held', flush=True); time.sleep(600)"
    text = MEASURES.replace("assert tuned(", f"{holds}\nassert tuned(")
    (p,) = processes(1, text, folder, tmp_path / "log", tmp_path, KEY)
    assert p.stdout.readline() == "held\n"
    p.kill()
    p.communicate()
    assert tuned(Store(folder), KEY, lambda: FOUND) == FOUND


def test_a_reader_sees_whole_files_only(folder):
    written(folder)
    started = processes(2, WRITES, folder, KEY)
    reads = 0
    while any(p.poll() is None for p in started):
        assert Store(folder).read(KEY) is not None
        reads += 1
    finish(started)
    assert reads > 10
    assert not list(folder.glob("*.tmp"))


# -- kernels
def kernel(timer, name="causal", **how) -> TritonKernel:
    return TritonKernel(spec(name), tune=True, timer=timer, **how)


SMALL_TILES = {"p": 16, "m": 16}


def test_a_kernel_takes_the_fastest():
    timer = Planned(4e-3, 3e-3, 1e-3, 2e-3)
    made = kernel(timer)
    against_torch(made, attention(33, 33, 16, torch.float32), True)
    assert 3 < timer.asked <= candidates.MOST
    assert made.tuning is not None
    assert made.tuning.chosen == made.tuning.tried[2].candidate
    ((found, _),) = next(iter(made.known.values()))
    assert found.candidate == made.tuning.chosen
    assert f"num_warps={found.candidate.warps}, num_stages={found.candidate.stages}" in found.source


def test_a_call_of_the_same_kind_is_not_timed_again():
    timer = Planned(2e-3, 1e-3)
    made = kernel(timer, tiles=SMALL_TILES)
    against_torch(made, attention(33, 33, 16, torch.float32), True)
    asked = timer.asked
    against_torch(made, attention(60, 60, 16, torch.float32), True)
    assert timer.asked == asked and len(made.tunings) == 1
    assert made.tuning is not None

    other = kernel(timer, tiles=SMALL_TILES)
    against_torch(other, attention(64, 64, 16, torch.float32), True)
    assert timer.asked == asked
    assert other.tuning == replace(made.tuning, kept=True)
    assert (
        next(iter(other.known.values()))[0][0].source
        == next(iter(made.known.values()))[0][0].source
    )


@pytest.mark.parametrize("what", ["length", "type", "tiles", "triton", "cascade"])
def test_a_call_of_another_kind_is_timed(what, monkeypatch):
    timer = Planned(2e-3, 1e-3)
    against_torch(kernel(timer, tiles=SMALL_TILES), attention(33, 33, 16, torch.float32), True)
    asked = timer.asked
    p, dtype, set_tiles = 33, torch.float32, SMALL_TILES
    if what == "length":
        p = 65
    elif what == "type":
        dtype = torch.float16
    elif what == "tiles":
        set_tiles = {"p": 32, "m": 16}
    else:
        new = {**tuning.versions(), what: "99.0"}
        monkeypatch.setattr("cascade.backends.triton.launch.versions", lambda: new)
    against_torch(kernel(timer, tiles=set_tiles), attention(p, p, 16, dtype), True)
    assert timer.asked > asked


def test_where_nothing_runs_the_model_chooses():
    made = kernel(Planned(RuntimeError("no")), tiles=SMALL_TILES)
    against_torch(made, attention(20, 20, 16, torch.float32), True)
    assert made.tuning is not None and made.tuning.chosen is None
    assert "RuntimeError: no" in str(made.tuning)


def test_a_timer_runs_the_kernel():
    made = kernel(Planned(1e-3, run=True), tiles=SMALL_TILES)
    against_torch(made, attention(20, 20, 16, torch.float32), True)
    assert made.tuning is not None
    assert all(t.seconds == 1e-3 for t in made.tuning.tried)


def test_without_a_device_nothing_is_tuned():
    given = attention(33, 33, 16, torch.float32)
    made = TritonKernel(spec("causal"), SMALL_TILES, tune=True)
    against_torch(made, given, True)
    plain = TritonKernel(spec("causal"), SMALL_TILES)
    against_torch(plain, given, True)
    assert made.tuning is None
    assert next(iter(made.known.values()))[0][0] == next(iter(plain.known.values()))[0][0]


@pytest.mark.parametrize("backend", ["tiled", "triton"])
def test_compiled_for_tuning(backend):
    made = cascade.compile(spec("causal"), backend, SMALL_TILES, tune=True)
    given = attention(20, 20, 16, torch.float32)
    against_torch(made, given, True)
    assert made.tuning is None


def test_what_ran_in_torch_is_reported(monkeypatch):
    monkeypatch.setattr(TritonKernel, "_tunes", lambda self, tensors: self.tune)
    monkeypatch.setattr("cascade.backends.triton.launch._timer", lambda _: Planned(2e-3, 1e-3))
    made = cascade.compile(spec("attention"), "triton", SMALL_TILES, tune=True)
    assert made.tuning is None
    against_torch(made, attention(21, 23, 16, torch.float32), False)
    assert made.tuning is not None and made.tuning.chosen == made.tuning.tried[1].candidate


def test_buckets():
    assert [bucket(n) for n in (0, 1, 2, 3, 1000, 1024, 1025)] == [1, 1, 2, 4, 1024, 1024, 2048]
