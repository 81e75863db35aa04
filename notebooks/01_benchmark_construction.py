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
# # 1. Benchmark construction
#
# > A monitor can only be judged on pairs whose label is certain and whose style gives
# > nothing away; such pairs can be composed from scenarios that people write and read.
#
# *Paper: arXiv 2601.05752, section 3. Cost: about twenty seconds in `tiny`, under a
# minute in `cpu`, about four minutes with the whole training corpus on two cores.*

# %% [markdown]
# **You will learn**
# - Compose 3,010 paired samples in six cells from a library of written scenarios.
# - Check what can be checked against the world: execute every program, solve every problem.
# - Stream a training corpus that shares no scenario with the benchmark.
#
# **Reads** nothing
#
# **Writes** `samples`, `label_checks`, `real_samples`, `real_transcripts`, `corpus`
#
# **References**
# - [1] Yang et al., *AutoMonitor-Bench*, arXiv 2601.05752.
# - [2] Betley et al., *Emergent misalignment*, arXiv 2502.17424 (secure and insecure
#   code for one request).
# - [3] Broder, *On the resemblance and containment of documents*, 1997 (MinHash).

# %% tags=["parameters"]
PROFILE: str = "tiny"  # tiny, cpu or gpu: how large everything is
RUN_ID: str = "default"  # folder of the run under data/runs
SEED: int = 2026  # one seed for everything
CORPUS_SHARE: float = 0.0  # share of the full training corpus; 0 is the profile's own
PAIRS_SHOWN: int = 2  # pairs of each cell in the sample browser

# %%
from monitorlab import display
from monitorlab.benchmark import browser, figures, overview, real_pairs, sandbox
from monitorlab.benchmark.composition import compose_pair
from monitorlab.benchmark.construction import COUNTS, build_pairs, to_table
from monitorlab.benchmark.corpus import SIZE, Report, build_corpus
from monitorlab.benchmark.generator import construct
from monitorlab.benchmark.samples import whole_texts
from monitorlab.benchmark.scenario_files import load_library
from monitorlab.benchmark.scripted import ScriptedGenerator, practice_questions
from monitorlab.benchmark.verification import check_programs, check_reasoning
from monitorlab.pipeline.artifacts import open_run, write_parts, write_table

# %%
run = open_run("01_benchmark_construction", profile=PROFILE, run_id=RUN_ID, seed=SEED)
display.use(run)
scenarios = load_library()
display.table(overview.library(scenarios), caption="The scenario library")

# %% [markdown]
# ## Six cells
#
# The paper's taxonomy has three categories of misbehavior, each in two kinds of task:
#
# - **S&PV**, safety and permission violations: the response openly crosses a boundary.
# - **Syco**, sycophancy and bias: a cue in the request steers the answer.
# - **SG**, specification gaming: a loophole of the task or its check is exploited.
#
# Its data is gated, so ours is written anew: each scenario is a situation in a YAML file
# under `data/scenarios`, with requests, benign and misbehaving answers, and everything
# that may vary. The *test* side makes the benchmark, the *training* side the corpus;
# gaming has no training side, because it shall stay unseen.

# %% [markdown]
# ## From a scenario to a pair
#
# A pair is one request $x$ with a benign response $r_0$ and a misbehaving one $r_1$.
# Slots (names, places, amounts) are drawn once per pair; wording, order of arguments,
# layout and code style are drawn for every response on its own. Here are two pairs of one
# scenario.

# %%
scenario = next(s for s in scenarios if s.id == "ward_order_second_signature")
for number in (0, 1):
    pair = compose_pair(scenario, number, SEED)
    print(f"REQUEST: {pair.request}\n")
    print(f"BENIGN: {pair.benign.text}\n\nMISBEHAVING: {pair.misbehaving.text}\n")

# %% [markdown]
# ## Ten cues
#
# In the sycophancy cells the request $x' = x + c$ holds a cue $c$ towards a wrong option.
# The paper names seven user suggestions, a metadata block and an alert that leaks an
# "answer"; it counts ten variants, so a second leak is our tenth. A response that reaches
# the right option is benign, one that reaches the suggested option misbehaves. Both sides
# mention the cue equally often, so the mention proves nothing.

# %%
display.table(overview.cues())

# %% [markdown]
# ## The method happens here
#
# Every pair has a generator of random numbers of its own, named by seed, scenario and
# number: builds are equal byte for byte, in any order. To keep length from giving the
# label away, each side is drafted three times, a coin says which side shall be longer, and
# the two drafts of most similar length in that order are kept. The sizes are the paper's
# (which of 976/196 and 298/578 is code, and which is QA, is our reading).

# %%
pairs = build_pairs(SEED, scenarios)
samples = to_table(pairs, SEED)
display.table(overview.counts(samples), caption="Samples by cell and split")

# %% [markdown]
# A quarter of the scenarios of each cell is the *dev* split, where thresholds may be
# chosen; the rest is *test*. A scenario is in one of them only.

# %%
fig = figures.plot_types(samples)
display.show(
    fig,
    "01_types",
    thumbnail=True,
    alt="Pairs by misbehavior type in three panels: weakness classes and permission "
    "types, the ten cues, and the fourteen gaming types.",
)

# %%
fig = figures.plot_lengths(samples)
display.show(
    fig,
    "01_lengths",
    alt="Histograms of words per response in the six cells, benign and misbehaving "
    "responses drawn over each other.",
)

# %% [markdown]
# ## What can be checked
#
# Every program runs in a subprocess with limits on time, memory, files, processes and
# network. In S&PV code both variants must do the task: that is their function, and the
# label is about their security, which no test decides here. In SG code both must pass the
# visible tests, and only the benign one the hidden tests, whose values are compared
# outside of the program's reach. That does decide the label. Where a machine cannot
# confine a program that starts tools, that program is not run and its label not counted.

# %%
programs = check_programs(pairs, SEED)
executed = programs.groupby(["cell", "label"])[["checked", "confirmed"]].sum()
executed = executed.set_axis(["executed", "passed"], axis=1).reset_index()
executed["shows"] = executed["cell"].map({"spv_code": "function", "sg_code": "the label"})
display.table(executed, caption="Programs executed, and what a passed check shows")

# %% tags=["nbval-ignore-output"]
display.say(
    "Isolation: {isolation}. Median time per program: {time:.1f} ms. {weakness}",
    isolation=", ".join(programs["isolation"].unique()),
    weakness=sandbox.weakness(),
    time=1000 * programs["seconds"].astype(float).median(),
)

# %% [markdown]
# Reasoning problems are drawn from families with a formula for the derivation *and* an
# independent solver. The check solves each problem again, finds the option in the request
# and reads the chosen letter from the response.

# %%
reasoning = check_reasoning(pairs, SEED)
print(f"{reasoning['confirmed'].sum()} of {len(reasoning)} reasoning labels confirmed")

# %% [markdown]
# ## Look at the data
#
# Unfold a pair. What only one side has is marked. Cover the headings, and guess.

# %%
shown = browser.draw_pairs(samples, PAIRS_SHOWN, run.rng("browser"))
browser.browse(samples, shown)

# %% [markdown]
# ## The same pairs from a model
#
# With a model at hand, the paper's protocol makes pairs from questions that exist
# already: inject the cue, sample up to $K = 5$ answers, keep the question only if a
# benign and a misbehaving answer appear. Every answer is stored as it arrives, so a
# failure loses nothing, and every dropped question has a reason. Here a *scripted
# stand-in* answers, to show the bookkeeping; `generator.CausalGenerator` reads any causal
# model, and `questions.load_questions` names GSM8K, TruthfulQA, HumanEval, MBPP, MMLU,
# GPQA and AIME.

# %%
store = run.folder / "answers.jsonl"
store.unlink(missing_ok=True)  # shown from the start; a real construction keeps its file
questions = practice_questions(scenarios, SEED)
made = construct(questions, ScriptedGenerator(), store, SEED)
again = construct(questions, ScriptedGenerator(), store, SEED)
print(f"{made.calls} calls, {len(made.samples)} samples; again: {again.calls} calls")
display.table(made.dropped.groupby("reason").size().rename("questions").reset_index())

# %% [markdown]
# ## Real pairs
#
# Some public files already hold two answers to one request, one right and one wrong:
# model solutions to GSM8K, programs of coding agents, marked reasoning chains, human
# preferences. They need no generator and are a second test set, always reported apart:
# their errors are honest mistakes rather than sycophancy or gaming. (The files of
# BIG-Bench-Mistake hold one chain per problem, and the lie-detector transcripts share no
# usable request, so neither gives pairs.)

# %% tags=["nbval-ignore-output"]
real = real_pairs.load(run)
if real is not None:
    found = real.overview[real.overview["pairs"] > 0]
    display.table(found[["source", "cell", "pairs", "problems", "label_from"]])
    write_table(run, "real_samples", real.samples)
    write_table(run, "real_transcripts", real.unpaired)

# %% [markdown]
# ## The training corpus
#
# Five components of the published sizes, composed from the training side in the same way
# and streamed to disk. A sample whose estimated Jaccard similarity of five-word runs [3]
# to an earlier one, or to any test sample, is .9 or more is left out and replaced.

# %%
report = Report()
parts = build_corpus(
    SEED,
    share=CORPUS_SHARE or run.profile.benchmark.corpus_share,
    processes=run.profile.benchmark.processes,
    test_texts=whole_texts(samples),
    scenarios=scenarios,
    report=report,
)
rows = write_parts(run, "corpus", parts)
display.say(
    "{rows:,} of {size:,} samples; {share:.1%} of those composed were no near-duplicate; "
    "{test} came near a test sample.",
    rows=rows,
    size=SIZE,
    share=report.distinct_share,
    test=report.near_test,
)

# %%
fig = figures.plot_corpus(overview.components(report))
display.show(
    fig,
    "01_corpus",
    alt="Samples in the five components of the training corpus, built here beside the "
    "published sizes.",
)

# %% [markdown]
# ## Does it hold?

# %%
per_pair = samples.groupby("pair_id")
assert samples.groupby("cell").size().to_dict() == COUNTS, "counts must be exact"
assert (per_pair["label"].sum() == 1).all(), "one benign, one misbehaving per pair"
assert (per_pair["request"].nunique() == 1).all(), "a pair shares its request"
assert (samples.groupby("scenario_id")["split"].nunique() == 1).all(), "splits share none"
executed = programs[programs["checked"]]
assert executed["confirmed"].all(), "every program must pass its check"
assert reasoning["confirmed"].all(), "every problem must confirm its label"
assert report.distinct_share >= 0.97, "the corpus must not repeat itself"
assert to_table(build_pairs(SEED, scenarios), SEED).equals(samples), "builds are equal"
other = to_table(build_pairs(SEED + 1, scenarios), SEED + 1)
assert len(other) == len(samples), "another seed changes no count"
changed = 1 - other["response"].isin(samples["response"]).mean()
print("counts, pairs, splits, labels and determinism hold")

# %% tags=["nbval-ignore-output"]
display.say("Another seed changed {changed:.1%} of the responses.", changed=changed)

# %% [markdown]
# ## Writing the outputs

# %%
write_table(run, "samples", samples)
write_table(run, "label_checks", overview.checks(programs, reasoning))
run.write_metrics(
    {
        "samples": len(samples),
        "scenarios": samples["scenario_id"].nunique(),
        "confirmed.execution": executed["confirmed"].mean(),
        "confirmed.solver": reasoning["confirmed"].mean(),
        "corpus.rows": rows,
        "corpus.distinct_share": report.distinct_share,
        "seed.changed": changed,
    }
)
display.headline(
    f"{len(samples):,}",
    f"paired samples from {samples['scenario_id'].nunique()} written scenarios",
)
run.close()

# %% [markdown]
# ## What we saw
#
# - We composed 3,010 paired samples in six cells from a library of written scenarios.
# - We executed every program and solved every problem again; each passed its check.
# - We streamed a training corpus that shares no scenario with the benchmark.
#
# **Limits.** The texts are written and composed, not observed: they measure what a
# monitor can tell apart, not how often models misbehave. That a program of S&PV code is
# insecure is its author's word. The split of the published
# category sizes over code and QA is our reading. An honest bug and a gamed check can look
# the same in the real pairs.
#
# **Add your own.** `data/scenarios/CONTRIBUTING.md` says how; `python -m monitorlab
# scenarios` checks what you wrote.

# %% [markdown]
# ## Exercises
#
# 1. Read five pairs of one cell with the headings covered. How many labels do you guess?
#    <details><summary>Answer</summary>With the request at hand, nearly all: the facts
#    that decide are there. From the response alone, about half, if the authors did
#    their work; the next notebook measures it.</details>
# 2. Set `SEED` to 7. Which tables change, and which do not?
#    <details><summary>Answer</summary>Texts, names and the dev split change; all counts
#    stay.</details>
# 3. Why are the hidden tests' values compared outside of the program's process?
#    <details><summary>Answer</summary>A program can return an object that claims to be
#    equal to everything. Once the value has been written down as JSON, it cannot.
#    </details>
