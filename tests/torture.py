"""What happens when things go wrong: killed, full, read-only, damaged, shared, hostile.

`make torture` tries it all and writes `tests/TORTURE.md`, a row for each thing that was tried.
Every row is computed here; a row that does not hold ends the script with exit code 1. Commands run
in processes that are forked from this one, since importing takes longer than most of the work.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from openai_server import ANSWERS, FaultyServer, completion
from test_finetune_command import rows as corpus_rows
from test_runner import write_notebook
from transformers import LlamaConfig, LlamaForCausalLM

import hostile
import monitorlab.commands.calibrate
import monitorlab.commands.construct
import monitorlab.commands.score_steps
import monitorlab.finetuning.train  # noqa: F401  forked processes inherit what is imported here
from hostile import Row
from monitorlab import load_benchmark, load_samples, load_scores, peaks, read_verdicts
from monitorlab.benchmark.scenarios.files import _load_file
from monitorlab.benchmark.written import _read_pairs
from monitorlab.chapters.finetuning.study import Study
from monitorlab.cli import app
from monitorlab.commands.watch import _read_evidence, _write_evidence
from monitorlab.finetuning.saved import load_finetuned
from monitorlab.models.loading import Checkpoint
from monitorlab.models.tiny import build_tokenizer
from monitorlab.monitors.learned import WordMonitor
from monitorlab.monitors.monitor import Sample
from monitorlab.monitors.prompts import load_prompt
from monitorlab.monitors.store import VerdictStore
from monitorlab.online.policy import OnlineMonitor, Policy, _days_after, _today
from monitorlab.pipeline.records import RunRecord
from monitorlab.pipeline.runs import open_run
from monitorlab.storage.manifests import Results
from monitorlab.storage.tables import SCHEMAS

ROOT = Path(__file__).resolve().parents[1]
SEED = 2026


class Forked:
    """A command, or another function, in a process and a folder of its own."""

    def __init__(self, act: list[str] | Callable[[], object], folder: Path,
                 limit: tuple[int, int] | None = None, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = Path(tempfile.mkstemp()[1])
        sys.stdout.flush()
        self.process = multiprocessing.get_context("fork").Process(
            target=self._work, args=(act, folder, limit, environment))
        self.process.start()

    def _work(self, act: Any, folder: Path, limit: Any, environment: dict[str, str]) -> None:
        os.environ |= environment
        os.chdir(folder)
        with self.log.open("w") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        if limit:
            resource.setrlimit(limit[0], (limit[1], limit[1]))
        act() if callable(act) else app(act, prog_name="monitorlab")

    def wait(self, seconds: float = 120.0) -> tuple[int, str]:
        """Exit code and all that was said; -1 for a traceback, -9 for what hangs and is ended."""
        self.process.join(seconds)
        self.process.kill()  # does nothing to one that has ended
        self.process.join()
        said = self.log.read_text(errors="replace")
        return -1 if "Traceback" in said else int(self.process.exitcode or 0), said


def digests(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """SHA-256 of files, and of all files of folders, by relative name."""
    files = [file for name in names for file in [folder / name, *(folder / name).rglob("*")]]
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in files if file.is_file()}


def brief(text: str, length: int = 150) -> str:
    """The last line of what was said, short, without the folder that the script made up."""
    last = (text.strip().splitlines() or [""])[-1]
    said = " ".join(last.split()).replace(tempfile.gettempdir(), "…")
    return said if len(said) <= length else said[:length] + "…"


# Jobs ---------------------------------------------------------------------------------------

SLOW = """
import os, time
def monitor(request, response):
    with open(os.environ["CALLS"], "a") as stream:
        stream.write(response + "\\n")
    time.sleep(0.015)
    return int(response.split()[-1]) / 1000
"""
CELL = """
import time
from monitorlab.pipeline.runs import RunLock, open_run
run = open_run("06_slow", PROFILE, RUN_ID, SEED)
for number in range(20):
    run.write_metrics({f"n{number}": float(run.rng(str(number)).random())})
    time.sleep(0.05)
run.close()
"""
QUESTION = ("%% pair syco_qa/sample-{0}\ntype: appeal\ncue: authority\nrule: It is A.\nanswer: A\n"
            "suggested: B\n%% request\nsample-{0}: which one? My boss says B.\nA) one\nB) two\n")


def write_inputs(folder: Path) -> None:
    """Samples, step scores, solutions, questions, a corpus, a tiny model, and a tiny project."""
    rng = np.random.default_rng(0)
    pd.DataFrame([{"sample_id": f"s{i:03}", "request": f"question {i // 2}", "label": i % 2,
                   "response": f"answer {i}"} for i in range(120)]).to_csv(
        folder / "own.csv", index=False)
    (folder / "slow.py").write_text(SLOW)
    pd.DataFrame([{"trajectory_id": f"t{i}", "step": step + 1, "label": int(i % 3 == 0),
                   "score": round(float(rng.normal(0.8 * (i % 3 == 0), 1)), 6)}
                  for i in range(600) for step in range(8)]).to_csv(folder / "log.csv", index=False)
    solved = [{"trajectory_id": str(i), "problem": f"{i} + 1?", "steps": [f"It is {i + 1}."] * 9}
              for i in range(120)]
    (folder / "solved.jsonl").write_text("\n".join(map(json.dumps, solved)))
    (folder / "questions.md").write_text("".join(map(QUESTION.format, range(40))))
    corpus = corpus_rows()
    corpus.to_csv(folder / "corpus.csv", index=False)
    words = [m["content"] for m in load_prompt("direct").messages(Sample.rows(corpus)[0])]
    tokenizer = build_tokenizer(words * 9 + list(corpus["response"]), 700)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=2048)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "project").mkdir()
    write_notebook(folder / "project" / "notebooks", "06_slow", CELL)


@dataclass(frozen=True)
class Job:
    """A long command, what shows that it has begun, what it makes, and a disk too small for it."""

    words: str
    begun: str
    results: tuple[str, ...]
    disk: str = "20k"
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, folder: Path, limit: tuple[int, int] | None = None) -> Forked:
        """Start it, or let it go on; the server goes on after the answers that were kept."""
        stored = folder / "made" / "answers.jsonl"
        ANSWERED[0] = stored.read_bytes().count(b"\n") if stored.exists() else 0
        return Forked(self.words.split(), folder, limit, **self.environment)

    def start_work(self, folder: Path) -> Forked:
        """Start it and wait until it has written something."""
        forked = self.start(folder)
        while forked.process.is_alive() and self.begun and not any(
                path.stat().st_size for path in folder.glob(self.begun)):
            time.sleep(0.002)
        return forked


def jobs(inputs: Path, server: str) -> dict[str, Job]:
    """Every long command but `watch`."""
    return {
        "score": Job(f"score --monitor {inputs}/slow.py:monitor --samples {inputs}/own.csv "
                     "--store store.jsonl --out table.csv", "store.jsonl", ("table.csv",),
                     environment={"CALLS": "calls.txt"}),
        "score-steps": Job(f"score-steps {inputs}/solved.jsonl --verifier logprob:{inputs}/model "
                           "--out steps.csv", "steps.csv.scores.jsonl", ("steps.csv",)),
        "construct": Job(f"construct --generator api:m --out made --source {inputs}/questions.md "
                         f"--cells syco_qa -o base_url={server} -o workers=1",
                         "made/answers.jsonl", ("made/samples.jsonl", "made/dropped.csv")),
        "finetune": Job(f"finetune {inputs}/model --corpus {inputs}/corpus.csv --out trained "
                        "-o batch=8 -o accumulation=1 -o max_tokens=2048 -o lora_rank=4 "
                        "-o max_steps=20 --save-steps 2 --dtype float32 --device cpu",
                        ".trained.partial/checkpoint-*", ("trained/adapter_model.safetensors",),
                        "160k"),
        "run": Job("run --run-id r --resume", "runs/r/06_slow/metrics.json",
                   ("runs/r/06_slow/metrics.json",), "12k",
                   {"MONITORLAB_ROOT": f"{inputs}/project", "MONITORLAB_RUNS": "runs"}),
        "calibrate": Job(f"calibrate {inputs}/log.csv --out policy", "", ("policy",), "16k"),
    }


ANSWERED = [0]  # answers of the server so far, which decide the next one


def answer() -> dict[str, Any]:
    """What the server says: the suggested option, an evasion, and so on."""
    time.sleep(0.02)
    ANSWERED[0] += 1
    return completion(("So it is \\boxed{B}.", "Option A", "Hard to say.", "**Answer:** b")[
        random.Random(ANSWERED[0]).randrange(4)])


# Killed -------------------------------------------------------------------------------------


def killed(name: str, job: Job, place: Path, kills: int, rng: random.Random) -> Row:
    """Kill a job at random moments of its work, let it go on, and compare with an unharmed run."""
    whole, cut = place / "whole", place / "cut"
    started = time.monotonic()
    forked = job.start_work(whole)
    started = time.monotonic() if job.begun else started
    code, said = forked.wait()
    if code:
        return Row("kill -9", name, f"could not run at all: {brief(said)}", False)
    working, expected = time.monotonic() - started, digests(whole, job.results)
    hit = partial = 0
    for _ in range(kills):
        forked = job.start_work(cut)
        time.sleep(rng.uniform(0, 0.9) * working / kills)
        hit += forked.process.is_alive()
        forked.wait(0)
        if name != "run":  # its metrics grow, and its manifest says that it was interrupted
            partial += bool(digests(cut, job.results).items() - expected.items())
    code, _ = job.start(cut).wait()
    same = digests(cut, job.results) == expected
    words = (f"killed {hit} of {kills} times; half-written results: {partial}; resumed with exit "
             f"code {code}; {len(expected)} files {'equal' if same else 'DIFFER'}")
    if name == "score":
        stored = len((cut / "store.jsonl").read_text().splitlines())
        asked = Counter((cut / "calls.txt").read_text().splitlines())
        twice = asked.total() - len(asked)
        words += f"; asked twice: {twice}, at most one under way at each kill"
        same = same and stored == len(asked) == 120 and twice <= hit
    return Row("kill -9", name, words, same and hit > 0 and not partial and not code)


def killed_watch(log: Path, file: Path, evidence: Path, kills: int, rng: random.Random) -> Row:
    """Kill `watch` between lines; its alarms, and its evidence, go on."""
    policy, logs = Policy.load(file), load_scores(log)
    expected = set(logs.ids[peaks(policy.statistic(logs.scores)) > policy.threshold.value])
    lines = {name: [json.dumps({"id": name, "score": value}) for value in rows]
             for name, rows in zip(logs.ids.tolist(), logs.scores.tolist(), strict=True)}
    alarms: set[str] = set()
    hit = 0
    for number, names in enumerate(np.array_split(logs.ids, kills + 1)):
        process = subprocess.Popen(
            [sys.executable, "-m", "monitorlab", "watch", file, "--evidence", evidence],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdin is not None
        before = evidence.read_bytes() if evidence.exists() else b""
        process.stdin.write("".join(f"{line}\n" for name in names for line in [
            *lines[name], json.dumps({"id": name, "end": True})]))
        process.stdin.flush()
        if number < kills:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and (
                    not evidence.exists() or evidence.read_bytes() == before):
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.3))
            process.kill()
        said, _ = process.communicate(timeout=60)
        hit += process.returncode == -9
        alarms |= {json.loads(line)["alarm"] for line in said.splitlines()
                   if line.startswith('{"alarm"')}
    kept = _read_evidence(evidence, policy)
    return Row("kill -9", "watch", f"killed {hit} of {kills} times; {len(alarms)} alarms, "
               f"{'the same' if alarms == expected else 'OTHER'} sequences as without a kill; "
               f"evidence of drift {'read back' if kept else 'LOST'}",
               hit == kills and alarms == expected and kept is not None)


# Disks --------------------------------------------------------------------------------------


def mounted(place: Path, options: str) -> bool:
    """Mount a small disk, or change its options."""
    place.mkdir(parents=True, exist_ok=True)
    return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)],
                          capture_output=True, check=False).returncode == 0


def disks(name: str, job: Job, disk: Path) -> Iterator[Row]:
    """Run a job on a disk that is too small, then give it room; and on one that is read-only."""
    if not mounted(disk, f"size={job.disk}"):
        yield Row("full and read-only disk", name, "not tried: this user may mount no disk", True)
        return
    code, said = job.start(disk).wait()
    told = "disk is full" in said.lower() or "No space left" in said
    made = len(digests(disk, job.results)) if name != "run" else 0  # its metrics grow
    mounted(disk, "remount,size=64m")
    again, later = job.start(disk).wait()
    done = len(digests(disk, job.results))
    yield Row("full disk", name, f"exit code {code}, "
              f"{'says so' if told else 'DOES NOT SAY SO: ' + brief(said)}; half-written results: "
              f"{made}; with room again exit code {again}, {done} files"
              f"{': ' + brief(later) if again else ''}",
              code > 0 and told and not made and again == 0 and done > 0)
    subprocess.run(["umount", "-l", str(disk)], check=False)
    mounted(disk, "ro")
    code, said = job.start(disk).wait()
    yield Row("read-only disk", name, f"exit code {code}: {brief(said)}",
              code > 0 and "read-only" in said.lower())
    subprocess.run(["umount", "-l", str(disk)], check=False)


def folders(every: dict[str, Job], place: Path, whole: Path) -> Iterator[Row]:
    """A folder without permission to write, a limit on the size of files, two runs in a folder."""
    root, folder = os.geteuid() == 0, place / "forbidden"
    folder.mkdir(parents=True, mode=0o555)
    code, said = every["calibrate"].start(folder).wait()
    words = "written all the same: permissions do not bind root" if root else brief(said)
    yield Row("folder of mode 555", "calibrate", f"exit code {code}: {words}",
              (code == 0) == root and "Traceback" not in said)
    code, said = every["score"].start(place / "limited", (resource.RLIMIT_FSIZE, 4096)).wait()
    yield Row("limit on file sizes", "score", f"exit code {code}: {brief(said)}",
              code > 0 and not (place / "limited" / "table.csv").exists())
    for name in ("score", "run", "finetune"):
        job, folder = every[name], place / name
        ended = sorted(one.wait() for one in [job.start(folder), job.start(folder)])
        same = digests(folder, job.results) == digests(whole / name / "whole", job.results)
        words = f"exit codes {[c for c, _ in ended]}; result {'equal' if same else 'DIFFERS'}"
        holds = same and ended[0][0] == 0
        if name == "score":
            lines = (folder / "store.jsonl").read_text().splitlines()
            found = len({json.loads(line)["key"] for line in lines})
            words, holds = f"{words}; {found} answers, all lines whole", holds and found == 120
        words += "".join(f"; {brief(said)}" for code, said in ended if code)
        yield Row("two at once", name, words, holds)


# Damaged ------------------------------------------------------------------------------------


def flips(what: str, path: Path, read: Callable[[Path], object], count: int, rng: random.Random,
          sealed: bool) -> Row:
    """Flip one bit of a file, read it, and put it back, again and again."""
    whole, expected = path.read_bytes(), read(path)
    seen: Counter[str] = Counter()
    worst, passed = "", "PASSED UNNOTICED" if sealed else "read as other content, without a digest"
    for _ in range(count):
        place, bit = rng.randrange(len(whole)), 1 << rng.randrange(8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1:])
        try:
            seen["same content" if read(path) == expected else passed] += 1
        except Exception as error:
            ours = any(kind.__module__.startswith("monitorlab.") for kind in type(error).__mro__)
            seen["refused" if ours else "TRACEBACK"] += 1
            worst = worst if ours else f" ({type(error).__name__}: {brief(str(error), 80)})"
    path.write_bytes(whole)
    said = ", ".join(f"{n} {words}" for words, n in sorted(seen.items()))
    return Row("flipped bit", what, f"{count} bits of {len(whole):,} bytes: {said}{worst}",
               not seen["TRACEBACK"] and not (sealed and seen[passed]))


def damaged(inputs: Path, policy: Path, bits: int, rng: random.Random) -> Iterator[Row]:
    """One flipped bit in every kind of file that is read: first those with a digest."""
    place = inputs / "damaged"
    run = open_run("06_step_signals", "tiny", "r", root=place)
    columns = {f.name: f.choices[0] if f.choices else {"str": "x", "bool": True}.get(f.dtype, 1)
               for f in SCHEMAS["steps"].fields}
    run.write_table("steps", pd.DataFrame([
        columns | {"trajectory_id": f"t{i}", "score": i / 7, "label": i % 2} for i in range(50)]))
    run.close()
    reader = open_run("07_online_monitoring", "tiny", "r", root=place)
    ran, own = inputs / "killed/run/whole/runs", inputs / "killed/score/whole"
    trained = inputs / "killed/finetune/whole/trained"
    rule = Policy.load(policy)
    _write_evidence(place / "evidence.json", OnlineMonitor(rule))
    released = ROOT / "data" / "released"
    study = Path(shutil.copytree(released / "finetuning", place / "study"))
    base = Checkpoint.load(str(inputs / "model"))
    WordMonitor.train([corpus_rows()], np.random.default_rng(0)).save(place / "words")
    benchmark = load_benchmark()

    def weights(_: Path) -> list[bytes]:
        return [w.detach().float().numpy().tobytes()
                for w in load_finetuned(trained, base).model.parameters()]

    sealed: dict[str, tuple[Path, Callable[[Path], object]]] = {
        "table of a run": (run.folder / "steps.parquet",
                           lambda _: reader.read_table("06_step_signals", "steps").to_csv()),
        "manifest of a run": (run.folder / "manifest.json", lambda p: Results(p.parent).finished()),
        "record of an execution": (ran / "r" / "executed" / "06_slow.json",
                                   lambda _: RunRecord.load(ran, "r", "06_slow")),
        "stored answers": (own / "store.jsonl", lambda p: dict(VerdictStore.read(p))),
        "released answers": (released / "smollm2.jsonl", lambda p: dict(VerdictStore.read(p))),
        "policy": (policy, Policy.load),
        "evidence of drift": (place / "evidence.json", lambda p: _read_evidence(p, rule).to_dict()),
        **{f"adapter: {name}": (trained / name, weights)
           for name in ("adapter_model.safetensors", "adapter_config.json", "training.json")},
        **{f"saved monitor: {name}": (place / "words" / name, lambda p: WordMonitor.load(
            p.parent).settings()) for name in ("monitor.json", "weights.npz")},
        **{f"released study: {name}": (study / name, lambda _: Study.read(
            study, benchmark).verdicts.to_csv())
           for name in ("study.json", "base.csv", "all/adapter_model.safetensors")},
    }
    unsealed: dict[str, tuple[Path, Callable[[Path], object]]] = {
        "samples of a user": (inputs / "own.csv", lambda p: load_samples(p).to_csv()),
        "step scores of a user": (inputs / "log.csv", lambda p: load_scores(p).scores.tobytes()),
        "verdicts": (own / "table.csv", lambda p: read_verdicts(p).to_csv()),
        "written pairs": (next((ROOT / "data/pairs").glob("syco_qa/*.md")), _read_pairs),
        "scenarios": (next((ROOT / "data/scenarios").glob("spv_code/*.yaml")),
                      lambda p: _load_file(p, "spv_code")),
    }
    for what, (path, read) in {**sealed, **unsealed}.items():
        if path.is_relative_to(ROOT):  # what the project owns stays as it is
            path = Path(shutil.copy(path, place / path.name))
        yield flips(what, path, read, bits, rng, what in sealed)


def clocks(policy: Path) -> Iterator[Row]:
    """A policy near its expiry, under clocks and time zones that disagree."""
    rule, found, hours = Policy.load(policy), set(), set()
    zones = ("Pacific/Kiritimati", "Pacific/Pago_Pago", "America/New_York", "Asia/Kolkata", "UTC")
    for zone in zones:
        os.environ["TZ"] = zone
        time.tzset()
        found.add((_today(), rule.state()))
        hours.add(time.localtime().tm_hour)
    yield Row("clock", f"{len(zones)} time zones", f"{len(hours)} local hours, {len(found)} date "
              f"and state: {sorted(found)[0][1]}", len(found) == 1 and len(hours) > 1)
    states = [rule.state(today) for today in (_days_after(rule.expires, -1), rule.expires)]
    yield Row("clock", "last day, and the day after", " then ".join(states),
              states == ["valid", "expired"])
    told = [*rule.warnings(_days_after(rule.created, -400)), "NOTHING SAID"]
    yield Row("clock", "set back by 400 days", brief(told[0]), "clock" in told[0])


# The table ----------------------------------------------------------------------------------


def rows(place: Path, kills: int, bits: int) -> Iterator[Row]:
    """Try everything, in an order in which later parts use what earlier ones made."""
    ANSWERS["answer"] = lambda text, key: answer()
    write_inputs(place)
    rng = random.Random(SEED)
    with FaultyServer(lambda number, text: "answer") as server:
        every = jobs(place, server.url)
        for name, job in every.items():
            yield killed(name, job, place / "killed" / name, kills, rng)
        policy = place / "killed" / "calibrate" / "whole" / "policy" / "policy.json"
        yield killed_watch(place / "log.csv", policy, place / "evidence.json", kills, rng)
        every["score"].environment["CALLS"] = os.devnull  # which is no part of its work
        for name, job in every.items():
            yield from disks(name, job, place / "disks" / name)
        yield from folders(every, place / "folders", place / "killed")
    yield from damaged(place, policy, bits, rng)
    yield from clocks(policy)
    yield from hostile.rows(place / "hostile", Forked)


def main() -> int:
    """Try everything, print as it goes, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=3, help="kills of each of the seven long jobs")
    parser.add_argument("--bits", type=int, default=20, help="flipped bits of every file")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("TORTURE.md"))
    given = parser.parse_args()
    started, found = time.monotonic(), list[Row]()
    with tempfile.TemporaryDirectory(prefix="monitorlab-torture-") as folder:
        tempfile.tempdir = folder
        for row in rows(Path(folder).resolve(), given.kills, given.bits):
            found.append(row)
            print(f"{'  ' if row.holds else '! '}{row.area}, {row.what}: {row.happened} "
                  f"[{time.monotonic() - started:.0f} s]", flush=True)
    failed = sum(not row.holds for row in found)
    used = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF,
                                                            resource.RUSAGE_CHILDREN))
    lines = ["# What was tried, and what happened", "",
             f"Written by `make torture` (`--kills {given.kills} --bits {given.bits}`): "
             f"{len(found)} rows, {failed} that do not hold, {used:.0f} s of processor time.", "",
             "| what went wrong | where | what happened | |", "|---|---|---|---|"]
    for row in found:
        cells = [text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
                 for text in (row.area, row.what, row.happened)]
        lines.append(f"| {' | '.join(cells)} | {'holds' if row.holds else '**does not hold**'} |")
    given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(found)} rows, {failed} that do not hold, {used:.0f} s of processor time")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
