# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
# ---

# %% [markdown]
# # 9. Deploy your monitor
#
# > A log of step scores becomes a policy in one file. Inside your generation loop the policy stops
# > a text at its alarm, and says so when its promise no longer holds.
#
# *Beyond both papers; the methods are those of arXiv 2607.02510. Cost: about half a minute in
# `tiny`, about a minute in `cpu`, most of it for a real language model that writes; no GPU is
# used.*

# %% [markdown]
# **You will learn**
# - Turn a log of finished sequences into an alarm policy, and read what it promises and until when.
# - Run the policy on a stream of scores, and notice when the stream has changed.
# - Stop a language model in the middle of its answer, in your own loop or on a server's stream.
#
# **Reads** nothing
#
# **Writes** `alarms`
#
# **References**
# - [1] Schirmer et al., *Online Safety Monitoring for LLMs*, arXiv 2607.02510.
# - [2] Vovk, *Testing randomness online*, Statistical Science 2021.

# %% tags=["parameters"]
PROFILE: str = "tiny"  # tiny, cpu or gpu: how large everything is
RUN_ID: str = "default"  # folder of the run under data/runs
SEED: int = 2026  # one seed for everything
ALPHA: float = 0.10  # target false alarm rate of the policy
SCORES_FILE: str = ""  # your own log, CSV, JSON or parquet; empty takes the one of the project
ORIENTATION: str = "suspicion"  # what a high score means in your log, suspicion or safety
COLUMNS: str = ""  # names in your log that differ, such as score:p_bad, label:verdict
RECORD: int = 0  # sequences that the model writes anew for the log; 0 takes the one on disk

# %%
import json
import shutil

import numpy as np
import pandas as pd

from monitorlab import OnlineMonitor, Policy, calibrate, display
from monitorlab.chapters import deployment as chapter
from monitorlab.pipeline.runs import open_run

# %%
chapter.check_level(ALPHA, "ALPHA")
run = open_run(
    "09_deploy_your_monitor",
    profile=PROFILE,
    run_id=RUN_ID,
    seed=SEED,
    parameters={
        "ALPHA": ALPHA,
        "SCORES_FILE": SCORES_FILE,
        "ORIENTATION": ORIENTATION,
        "COLUMNS": COLUMNS,
        "RECORD": RECORD,
    },
)
display.use(run)

# %% [markdown]
# ## A log
#
# You need finished sequences with a score for every step, and you need to know how they ended. Ours
# come from a real language model of 135 million parameters that counts. It reads eight numbers,
# such as 16, 26, 36 and so on, and writes six more, one a line. Everyone can see when it goes
# wrong. A line is a step, and a sequence is unsafe if one of its lines is wrong or missing.
#
# The score is the free signal of notebook 06. A model that slips is often unsure, so the suspicion
# of a line is minus the lowest log-probability of its tokens.

# %%
counted = chapter.LOG
if RECORD:
    counted = chapter.Writer.load(SEED).record(run.folder, RECORD, SEED)
file = run.record_file(SCORES_FILE or counted)
log = chapter.Log.load(file, ORIENTATION, COLUMNS)
size = len(log.data)
print(f"{file.name}: {size} sequences, {log.data.count(1)} of them unsafe")
display.table(log.table.head(8), decimals=2)

# %% [markdown]
# Your own log needs the columns `trajectory_id, step, score, label`; name it in `SCORES_FILE`, and
# everything below is about it. We pretend that the last quarter of the log came later. It will play
# the part of the future, so nothing is chosen on it.

# %%
cut = size * 3 // 4
past, later = log.take(np.arange(cut)), log.take(np.arange(cut, size))
print(f"{cut} sequences of the past, {size - cut} that come later")

# %% [markdown]
# ## The method happens here
#
# Suppose a model writes the tokens of two lines, and gives them these probabilities. The first line
# has the probabilities 0.9 and 0.8, so its suspicion is $-\log 0.8 \approx 0.22$. The second has
# 0.9 and 0.3, and its suspicion is $-\log 0.3 \approx 1.20$. Four safe sequences of the past had
# the peaks 0.2, 0.5, 0.7 and 0.9. At a level of 0.4 the rank is
# $\lfloor 0.4 \cdot 5 \rfloor = 2$ ([1], Eq. 8), so the threshold is the second largest, 0.7, and
# the text is stopped after its second line.

# %%
tokens = [("16", 0.9), ("\n", 0.8), ("26", 0.9), ("\n", 0.3), ("36", 0.9), ("\n", 0.9)]
scores = [-np.log(min(0.9, 0.8)), -np.log(min(0.9, 0.3))]
threshold = np.sort([0.2, 0.5, 0.7, 0.9])[::-1][int(0.4 * 5) - 1]
print("by hand:", [f"{s:.2f} {'alarm' if s > threshold else 'passes'}" for s in scores])

# %% [markdown]
# The library does the same token by token. A `StepRule` says where a step ends, at a line break
# unless you say otherwise, a scorer gives the step its suspicion, and an `OnlineMonitor` judges it.
# What is passed on is a step at a time, once the step has been judged.

# %%
small = Policy(calibrate([0.2, 0.5, 0.7, 0.9], level=0.4))
watched = chapter.WatchedText("by hand", OnlineMonitor(small), chapter.LogProbability())
passed = [watched.token(text, np.log(probability)) for text, probability in tokens]
print(f"passed on: {''.join(passed)!r}; {watched.alarm.reason}, at step {watched.alarm.step}")
assert np.allclose(watched.scores, scores), "by hand and by the library: the same scores"
assert watched.alarm.step == 2, "by hand and by the library: the same alarm"

# %% [markdown]
# ## From the log to a policy
#
# `python -m monitorlab calibrate my_log.csv --level 0.10 --out policy` is one command, and here is
# what it does. Half of the log chooses a statistic and fits it, as notebook 07 did, and the other
# half places the threshold, so that the promise holds whatever was chosen. The policy goes into a
# folder with a page that says what to expect. It also records how the texts of the log were cut and
# scored, if we tell it, and then refuses to watch texts in another way.

# %%
scoring = "" if SCORES_FILE else watched.scoring
plan = chapter.Plan(level=ALPHA, side=ORIENTATION, seed=SEED, scoring=scoring)
found = chapter.Calibrated.of(past.data, plan, chapter.digest_file(file))
folder = run.folder / "policy"
shutil.rmtree(folder, ignore_errors=True)  # what an earlier run left
found.save(folder)
policy = Policy.load(folder / "policy.json")
display.say("{promise}", promise=policy.promise)

# %% [markdown]
# Before you rely on it, look at what it will catch, and at what other levels would cost.

# %%
fig = found.plot(f"What to expect: {file.stem}")
display.show(
    fig,
    "09_levels",
    alt="False alarm rate and power at six levels, with 95 percent intervals, the level of the "
    "policy dotted.",
)

# %% [markdown]
# On the left, a mark should not lie above the dashed line by more than its interval. On the right,
# higher is better. If power is low at the level that you can afford, no calibration will help, and
# you need a better score.

# %% [markdown]
# Would something simpler have done? The next table compares a threshold on the score with trivial
# rules under the same promise, on random halves of the past. The *first score only* is prediction,
# since it reads nothing after the first step. Where the first wrong step is known, `after_onset` is
# the share of unsafe sequences whose alarm came at that step or later.

# %%
trivial = past.beside_trivial(ALPHA, SEED)
display.table(trivial, decimals=2, caption=f"Level {ALPHA:g}, means over random halves")

# %% [markdown]
# ## What the file refuses
#
# A policy is a file in production, so think of what can happen to it. Somebody may edit a number in
# it, a copy may be cut, and it may simply grow old.

# %%
whole = (folder / "policy.json").read_text()
edited = whole.replace('"alarm"', '"raise"', 1)
for name, text in {"edited": edited, "cut": whole[:-40]}.items():
    copy = run.folder / f"{name}.json"
    copy.write_text(text)
    try:
        Policy.load(copy)
        print(f"{name}: accepted")
    except chapter.PolicyError as error:
        print(f"{name}: {str(error).partition(': ')[2].partition('. ')[0]}")
    copy.unlink()

# %%
states = {"on its first day": policy.created, "on its last": policy.expires}
print({when: policy.state(day) for when, day in states.items()})

# %% [markdown]
# An expired policy still raises alarms, and each of them says that the promise is no longer made.

# %% [markdown]
# ## Watching a stream
#
# In production the sequences arrive interleaved, a score at a time.
# `your_verifier | python -m monitorlab watch policy/policy.json` reads lines such as the first ones
# below, and writes a line for each alarm. The sequences that came later are its input.

# %%
lines = later.interleaved(run.rng("turns"))
print("\n".join(lines[:3]))

# %%
said, complaints = [], []
chapter.watch(OnlineMonitor(policy), lines, said.append, complaints.append)
events = [json.loads(line) for line in said]
alarms = {event["alarm"]: event["step"] for event in events if "alarm" in event}
print(*said[:2], sep="\n")
print(f"{len(alarms)} alarms, {len(complaints)} complaints about lines")

# %% [markdown]
# The sequences that came later have labels, too, and so we can count what the alarms were worth.
# The intervals are Wilson's, for sequences that are independent of one another.

# %%
outcome = later.held_out(alarms)
display.table(outcome, decimals=3, caption="Sequences that came later, 95 % intervals")

# %% [markdown]
# A line that cannot be used is never passed over in silence. The next lines hold a score that is no
# number and a step that is missing, and both sequences alarm.

# %%
bad = ['{"id": "x", "score": null}', '{"id": "y", "step": 1, "score": 0}', '{"id": "y", "step": 3}']
chapter.watch(OnlineMonitor(policy), bad, lambda text: None, complaints.append)
print("\n".join(complaints))

# %% [markdown]
# ## When the stream changes
#
# The promise assumes that new sequences are like those that calibrated. Every finished sequence
# therefore goes through a test [2]. Its evidence exceeds one hundred with a probability of at most
# one percent if nothing changes, however long you watch. We play the later sequences three times,
# as they came, with scores twice as high, and with scores a third as high, as a model might give
# them that has become too sure of itself.

# %%
factors = {"as they came": 1.0, "twice as high": 2.0, "a third as high": 1 / 3}
evidence = later.drift_evidence(policy, factors, run.rng("drift"))
fig = chapter.plot_evidence(evidence, policy.drift.rate, "Evidence of drift")
display.show(
    fig,
    "09_drift",
    alt="Evidence of drift against the number of finished sequences, on a logarithmic axis, for "
    "sequences as they came, for doubled scores and for scores a third as high, with the line at "
    "which the guarantee is void.",
)

# %% [markdown]
# A line that stays low has seen nothing unusual. From the moment at which a line crosses the dashed
# one, the state of the policy is *guarantee void*, and every later alarm says so. The test needs no
# labels, so it cannot tell whether the change is a harmful one. And it sees peaks only where a
# sequence was not stopped: if most of them are stopped anyway, higher scores leave little trace.
# What a change does to false alarms, only new labels can tell.

# %%
last = evidence.groupby("scene", sort=False).last()
display.table(last.reset_index(), decimals=1)

# %% [markdown]
# ## Inside the generation loop
#
# Now the model writes while the monitor watches. `StopAtAlarm` is a stopping criterion of
# transformers. Each row of a batch stops at its own alarm, and the log-probabilities cost nothing,
# since the loop computes them anyway. First we let the model write without a monitor, so that we
# can see later what was prevented.

# %% tags=["nbval-ignore-output"]
writer = chapter.Writer.load(SEED)
display.say(writer.about)
seen = pd.read_csv(counted)["trajectory_id"]  # no prompt of the log comes again
counts = chapter.Count.draw(run.rng("live"), run.profile.deployment.live, without=seen)
seed = run.torch_seed("live")
unwatched = writer.write(counts, seed)
would_be = chapter.Count.table(counts, unwatched)
print(counts[0].prompt, *would_be.head(6)["text"], sep="\n... ")

# %% [markdown]
# The policy for these sequences must come from sequences of this kind. If the log above is your
# own, we calibrate another policy on the log of the counting model.

# %%
live_policy = policy
if SCORES_FILE:
    counted_log = chapter.Log.load(counted).data
    plan = chapter.Plan(level=ALPHA, seed=SEED, scoring=watched.scoring)
    live_policy = chapter.Calibrated.of(counted_log, plan).policy

# %% [markdown]
# These lines are what you would put into your own code. The hooks go to `generate`, and `answers`
# gives each text up to the end of the step that alarmed. Nothing that was written after an alarm is
# in it. We use the same random seed as before, so that both runs draw the same tokens.

# %% tags=["nbval-ignore-output"]
monitor = OnlineMonitor(live_policy)
inputs, model = writer.ready(counts, seed), writer.checkpoint.model
tokenizer = writer.checkpoint.tokenizer
stop = chapter.StopAtAlarm(
    monitor,
    chapter.LogProbability(),
    model,
    tokenizer,
    [one.id for one in counts],
    most_steps=chapter.WANTED,
)
output = model.generate(**inputs, **stop.hooks)
answers = stop.answers(output)
print(f"{monitor.alarms} of {len(answers)} sequences were stopped")

# %% tags=["nbval-ignore-output"]
stopped = {one.sequence_id: one.alarm.step for one in answers if one.alarm}
fig = chapter.plot_stopped(
    would_be, stopped, f"Stopped while counting: {writer.checkpoint.identity['model']['name']}"
)
display.show(
    fig,
    "09_stopped",
    thumbnail=True,
    alt="What the model writes for each prompt, line by line, wrong lines orange, with a frame "
    "around the line at which the monitor stopped it, and the prevented lines pale.",
)

# %% [markdown]
# Each row is a sequence. A frame marks the line at which the monitor stopped it, and what is pale
# was never written. A good monitor has its frame around the first orange line. A frame before it
# predicts an error that has not happened yet, a frame in a row without orange is a false alarm, and
# an orange line in a row without a frame is a miss.

# %% [markdown]
# What if the scorer itself fails? A monitor that falls silent would be worse than none, because
# somebody relies on it. So a scorer that raises an error stops its text, and the alarm says why.

# %%
broken = chapter.WatchedText("broken", OnlineMonitor(live_policy), chapter.LogProbability())
passed = broken.piece("16\n26\n")  # text without log-probabilities
print(repr(passed), broken.alarm.reason, sep="\n")

# %% [markdown]
# ## On the stream of a server
#
# If the model runs behind an OpenAI-compatible server, there is no loop to put a criterion into,
# but there is a stream. `WatchedText.stream` reads its chunks, passes a step on once it has been
# judged, and closes the connection at the alarm, which makes the server stop writing. With the
# client it is `chunks = client.chat.completions.create(..., stream=True, logprobs=True)`. Here we
# make the chunks by hand, from the tokens of the small example.


# %%
chunks = [
    {
        "choices": [
            {
                "delta": {"content": text},
                "logprobs": {"content": [{"token": text, "logprob": np.log(probability)}]},
            }
        ]
    }
    for text, probability in tokens
]
streamed = chapter.WatchedText("stream", OnlineMonitor(small), chapter.LogProbability())
print(list(streamed.stream(chunks)), streamed.alarm.reason, sep="\n")

# %% [markdown]
# ## What does a watched token cost?
#
# The free signal costs next to nothing. Another model that reads along would read the whole text
# again at every step, unless it keeps what it has read. `CachedReader` keeps it. A text of $n$
# tokens read token by token then takes $n$ tokens of work instead of $n (n + 1) / 2$, and the
# log-probabilities are the same.

# %% tags=["nbval-ignore-output"]
ids = tokenizer(counts[0].prompt, add_special_tokens=False)["input_ids"][:16]
reader = chapter.CachedReader(model, ids[:1])
one_by_one = np.concatenate([reader.append([token]) for token in ids[1:]])
at_once = chapter.CachedReader(model, ids[:1]).append(ids[1:])
largest = np.abs(one_by_one - at_once).max()
print(f"{len(ids)} tokens, one by one or at once: they differ by at most {largest:.0e}")

# %% tags=["nbval-ignore-output"]
n = np.array([64, 256, 768, 4096])
work = pd.DataFrame({"tokens of a text": n, "kept": n, "read anew": n * (n + 1) // 2})
display.table(work, caption="Tokens that a model reads in all")

# %% [markdown]
# `CachedVerifier` asks a question after each step, such as *Is the answer right so far?*, reads the
# probabilities of *Yes* and *No*, and takes the question out again. `make benchmark` times both.

# %% [markdown]
# ## Does it hold?
#
# The alarms of `watch` must be those that whole sequences give, a stopped text must be the
# beginning of what would have been written, and nothing may come after its alarm.

# %%
offline = later.alarms(policy)
steps = offline.set_index("trajectory_id")["alarm_step"].dropna()
assert alarms == steps.to_dict(), "alarms of a stream must be those of whole sequences"
for one, other in zip(answers, unwatched, strict=True):
    assert other.text.startswith(one.text), "the same seed must draw the same tokens"
    assert one.alarm is None or len(one.scores) == one.alarm.step, "nothing after an alarm"
assert largest < 1e-3, "kept states must score as new ones"
assert broken.alarm.is_error, "a scorer that fails must stop its text"
assert passed == "", "and nothing of it may be passed on"
assert SCORES_FILE or last["state"].iloc[-1] == "guarantee void", "a change must be noticed"
print("online and offline alarms agree, stopped texts are prefixes, failures stop")

# %% [markdown]
# ## Writing the outputs
#
# The table `alarms` has a row for each sequence that came later. The policy and its page are in the
# folder `policy` of this run.

# %%
run.write_table("alarms", offline.dropna(subset="label"))
print(sorted(path.name for path in folder.iterdir()))

# %%
rates = outcome.set_index("measure")["rate"]
run.write_metrics(
    {
        "threshold": policy.threshold.value,
        "calibrated": policy.threshold.n,
        "far.later": rates["false alarm rate"],
        "power.later": rates["power"],
    }
    | {f"power.{row.method}": row.power for row in trivial.itertuples()}
)
display.headline(
    f"{rates['power']:.2f}",
    f"of the unsafe sequences that came later were stopped, level {ALPHA:g}",
)
run.close()

# %% [markdown]
# ## What we saw
#
# - We turned a log into a policy, read what it promises, and saw that an edited or cut file is
#   refused and that an old one says so.
# - We ran it on a stream, where it gave the alarms of whole sequences, and a test without labels
#   noticed one change of the scores, and could hardly have noticed another.
# - We stopped a real model in the middle of its answers, each row of a batch at its own step, and
#   did the same to a server's stream.
#
# **Limits.** The promise is about sequences like those of the log: the same model, temperature,
# prompts and rule for steps. It bounds false alarms, not misses. The task is simple on purpose, so
# that you can check every line; the free signal need not be as good on yours.

# %% [markdown]
# ## Exercises
#
# 1. Set `ALPHA` to 0.30. What changes in the figure of stopped sequences?
#    <details><summary>Answer</summary>More frames appear, and some of them around black lines. The
#    level is the share of safe sequences that you accept to lose.</details>
# 2. Let the model write hotter in deployment than in the log: copy the cell of the loop and give
#    `generate` a temperature of 1.2. What does the policy's promise say about that?
#    <details><summary>Answer</summary>Nothing. Hotter sequences are not exchangeable with the log,
#    more of them will alarm, and after enough of them the test for drift voids the
#    guarantee.</details>
# 3. Bring a log of your own in `SCORES_FILE` without the column `label`. What does the notebook
#    say?
#    <details><summary>Answer</summary>It refuses. A bound on false alarms comes from sequences that
#    are known to be safe.</details>
