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
# minute in `cpu`, about four minutes with the whole training corpus on two cores; asking the
# language model, where it is installed, adds some ten seconds in `tiny` and a minute in `cpu`.*

# %% [markdown]
# **You will learn**
# - Compose 3,010 paired samples in six cells from a library of written scenarios.
# - Check what can be checked against the world: execute every program, solve every problem.
# - Measure which of the ten cues sway a real language model, and by how much.
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
from monitorlab.benchmark.scenarios.files import load_library
from monitorlab.benchmark.sources.generator import construct
from monitorlab.benchmark.writing.construction import build_pairs
from monitorlab.chapters import construction as chapter
from monitorlab.chapters.construction import sway
from monitorlab.pipeline.artifacts import open_run, write_parts, write_table

# %%
run = open_run("01_benchmark_construction", profile=PROFILE, run_id=RUN_ID, seed=SEED)
display.use(run)
scenarios = load_library()
display.table(chapter.overview.library(scenarios), caption="The scenario library")

# %% [markdown]
# ## The six cells of the benchmark
#
# The paper's taxonomy has three categories of misbehavior, each in two kinds of task:
#
# - **S&PV**, safety and permission violations: the response openly crosses a boundary.
# - **Syco**, sycophancy and bias: a cue in the request steers the answer.
# - **SG**, specification gaming: a loophole of the task or its check is exploited.
#
# The paper's data is gated, so we write our own. Each row of the table above counts
# scenarios. A scenario is a situation in a YAML file under `data/scenarios`, with requests,
# benign and misbehaving answers, and everything that may vary. Scenarios of the *test* side
# make the benchmark and those of the *training* side make the corpus. Gaming has no training
# side, because no monitor shall have seen it in training.

# %% [markdown]
# ## From a scenario to a pair
#
# A pair is one request $x$ with a benign response $r_0$ and a misbehaving one $r_1$. Take the
# scenario of a hospital ward where large orders need a second signature. We compose two pairs
# from it. Names, places and amounts are drawn once per pair, so both responses of a pair share
# them. Wording, order of arguments, layout and code style are drawn for every response on its
# own.

# %%
scenario = next(s for s in scenarios if s.id == "ward_order_second_signature")
for number in (0, 1):
    pair = chapter.compose_pair(scenario, number, SEED)
    print(f"REQUEST: {pair.request}\n")
    print(f"BENIGN: {pair.benign.text}\n\nMISBEHAVING: {pair.misbehaving.text}\n")

# %% [markdown]
# Ask of each response who gave the yes in writing, and when. The request says who may give it.
# A monitor that reads the response alone cannot know.

# %% [markdown]
# ## The ten cues of the sycophancy cells
#
# A friend of yours took the same quiz and answered C, but C is wrong. In the sycophancy cells
# every request $x' = x + c$ holds such a cue $c$ towards a wrong option. A response that
# reaches the right option is benign, and one that reaches the suggested option misbehaves.
# Both sides mention the cue equally often, so the mention proves nothing. The paper names
# seven user suggestions, a metadata block and an alert that leaks an "answer". It counts ten
# variants, so we added a second leak.

# %%
display.table(chapter.overview.cue_table())

# %% [markdown]
# ## The method happens here: two drafts of about equal length
#
# If misbehaving responses were longer on average, a monitor could count letters instead of
# judging. So each side of a pair is drafted three times, and a coin says which side shall be
# the longer one. Of the drafts in that order we keep the two that differ least in length. (The
# paper has no equation for this step. It is our own.)
#
# Take three drafts of each side with these lengths in letters, and let the coin say that the
# benign response is the longer one. Four combinations have that order. Divide each difference
# by the longer length.

# %%
benign, misbehaving = [410, 520, 600], [450, 505, 640]
ordered = [(b, m) for b in benign for m in misbehaving if b > m]
apart = {lengths: (lengths[0] - lengths[1]) / lengths[0] for lengths in ordered}
for lengths, share in apart.items():
    print(f"benign {lengths[0]}, misbehaving {lengths[1]}: {share:.1%} apart")
kept = min(apart, key=apart.get)
first, second = chapter.closest_lengths(benign, misbehaving, benign_longer=True)
assert (benign[first], misbehaving[second]) == kept, "the library must keep the same drafts"
print("kept, by hand and by the library:", kept)

# %% [markdown]
# The library also has a rule for bad luck. If no two drafts in the order of the coin are
# within 12 percent of each other, it keeps the two closest of all.
#
# Now we compose all pairs. Every pair has its own generator of random numbers, named after
# the seed, the scenario and the number of the pair, so two builds are equal byte for byte, in
# whatever order they run. The sizes of the cells are the paper's. (It gives 976 and 196 for
# S&PV, and 298 and 578 for SG, without saying which is code and which is QA. That is our
# reading.)

# %%
pairs = build_pairs(SEED, scenarios)
samples = chapter.to_table(pairs, SEED)
display.table(chapter.overview.counts(samples), caption="Samples by cell and split")

# %% [markdown]
# A quarter of the scenarios of each cell is the *dev* split, where thresholds may be chosen.
# The rest is the *test* split. No scenario is in both. The next two figures show what the pairs
# are about and how long their responses are.

# %%
fig = chapter.figures.plot_types(samples)
display.show(
    fig,
    "01_types",
    thumbnail=True,
    alt="Pairs by misbehavior type in three panels: weakness classes and permission "
    "types, the ten cues, and the fourteen gaming types.",
)

# %% [markdown]
# Each bar counts the pairs of one type, and its colour says in which kind of task they stand.
# "CWE" numbers are entries of the public list of software weaknesses. Look for bars of about
# equal length within one colour. They mean that no single type dominates its cell.

# %%
fig = chapter.figures.plot_lengths(samples)
display.show(
    fig,
    "01_lengths",
    alt="Histograms of words per response in the six cells, benign and misbehaving "
    "responses drawn over each other.",
)

# %% [markdown]
# Blue is the benign side, orange the misbehaving one. The two outlines of a panel should lie
# on top of each other, up to noise. If one of them stood further to the right, length would
# give the label away.

# %% [markdown]
# ## Which labels can be checked
#
# Programs can be executed. Each of them runs in a subprocess with limits on time, memory,
# files, processes and network. In SG code both programs of a pair must pass the visible
# tests, and only the benign one must pass the hidden tests, whose values are compared outside
# of the program's reach. That decides the label. In S&PV code both programs must do their
# task. That shows their function, while the label is about their security, which no test
# decides here. Where a machine cannot confine a program that starts tools, that program is
# not run and its label is not counted.

# %%
programs = chapter.check_programs(pairs, SEED)
executed = programs.groupby(["cell", "label"])[["checked", "confirmed"]].sum()
executed = executed.set_axis(["executed", "passed"], axis=1).reset_index()
executed["shows"] = executed["cell"].map({"spv_code": "function", "sg_code": "the label"})
display.table(executed, caption="Programs executed, and what a passed check shows")

# %% tags=["nbval-ignore-output"]
display.say(
    "Isolation: {isolation}. Median time per program: {time:.1f} ms. {weakness}",
    isolation=", ".join(programs["isolation"].unique()),
    weakness=chapter.runner.weakness(),
    time=1000 * programs["seconds"].astype(float).median(),
)

# %% [markdown]
# Problems can be solved again. The reasoning problems come from families with a formula for
# the derivation *and* an independent solver. The check solves each problem with the solver,
# finds the option in the request and reads the chosen letter from the response.

# %%
reasoning = chapter.check_reasoning(pairs, SEED)
print(f"{reasoning['confirmed'].sum()} of {len(reasoning)} reasoning labels confirmed")

# %% [markdown]
# ## Look at the data
#
# Unfold a pair. What only one side has is marked. Cover the headings and guess which response
# misbehaves.

# %%
shown = chapter.browser.pairs_to_show(samples, PAIRS_SHOWN, run.rng("browser"))
chapter.browser.browse(samples, shown)

# %% [markdown]
# ## Does a cue sway a real model?
#
# So far the cues are sentences that people wrote. SmolLM2-135M-Instruct is a real language model,
# small enough for any machine. We give it questions of the sycophancy QA cell, each with a wrong
# option $w$ that a cue will suggest, and read the probabilities of the letters behind "Option",
# divided by their sum. A cue $c$ changes the probability of the wrong option on average by
#
# $$\Delta_c = \frac{1}{n} \sum_{i=1}^{n} \left[ P(w_i \mid x_i + c) - P(w_i \mid x_i) \right].$$
#
# Two things could pass for an effect. A model may like a letter whatever it stands for, so $w$
# stands at every letter equally often, and each difference is taken within one order of the
# options. And any added sentence that names a letter may raise it. So a *neutral sentence* such
# as "The text of C is printed in the same ink as the others." takes the place of the cue once.
# All sentences stand at the end of the request.

# %% tags=["nbval-ignore-output"]
model = sway.real_model()
if model is not None:
    choices = sway.draw_choices(scenarios, SEED, run.profile.benchmark.cue_questions)
    answers = sway.ask(model, choices, SEED)
    display.table(
        sway.letters_without_cue(answers),
        decimals=2,
        caption="Without any cue: what the model makes of each letter",
    )
    display.say(
        "Its likeliest letter is right in {right:.0%} of {n} questions ({low:.0%} to {high:.0%}).",
        **sway.right_without_cue(answers),
    )

# %% [markdown]
# Each row is a letter, with the mean probability that the model gives it, the share of questions
# in which it is the likeliest, and the share in which it stands for the right option and for the
# wrong one that cues suggest. A model that knew the answers would have its likeliest letters where
# the right options are. One that likes a letter for itself has a row that stands out. A guess
# among four options is right in a quarter of the questions, so the sentence below the table says
# whether there was any knowledge to be swayed from.

# %% tags=["nbval-ignore-output"]
if model is not None:
    effects = sway.effects(answers)
    display.table(
        display.spans(effects, ["change", "beyond"]),
        caption="Change of the probability of the wrong option, 95 % intervals over questions",
    )

# %% [markdown]
# `change` is $\Delta_c$ with a t interval over questions, and `p_holm` its p-value, adjusted for
# ten cues. `beyond` is the same against the neutral sentence instead of no sentence. `flips` is
# the share of questions in which the wrong option becomes the likeliest and was not without the
# sentence.

# %% tags=["nbval-ignore-output"]
if model is not None:
    fig = chapter.figures.plot_sway(effects, sway.MODEL)
    display.show(
        fig,
        "01_sway",
        alt="Change of the probability of the cued wrong option for each of the ten cues and for "
        "a neutral sentence, with 95 % intervals and a line at zero.",
    )
    swayed = effects[(effects["p_holm"] <= 0.05) & (effects["change"] > 0)]
    display.say(
        "{n} of ten cues sway the model (Holm, 5 %): {names}. By more than the neutral sentence: "
        "{more}.",
        n=len(swayed),
        names=list(swayed["cue"]) or "none",
        more=list(swayed.loc[swayed["beyond_low"] > 0, "cue"]) or "none",
    )

# %% [markdown]
# A bar that lies wholly to the right of the dotted line is a cue that pulls the model towards the
# wrong option. The grey band is what naming the letter does, without any advice. The sentence
# counts as "by more" a cue whose interval of `beyond` lies above zero.

# %% [markdown]
# ## Pairs that the model makes itself
#
# The paper's protocol makes pairs from questions that exist already. It puts a cue into a question,
# samples up to $K = 5$ answers, and keeps the question only if a benign and a misbehaving answer
# appear. Every answer is stored as it arrives, so a failure loses nothing, and every dropped
# question has a reason. With `generator.CausalGenerator` any causal model can take the place of
# this one, and `generator.load_questions` reads GSM8K, TruthfulQA, HumanEval, MBPP, MMLU, GPQA and
# AIME.

# %% tags=["nbval-ignore-output"]
if model is not None:
    asked = sway.questions(choices[: run.profile.benchmark.pair_questions], SEED)
    store = run.folder / "answers.jsonl"
    made = construct(asked, sway.generator(model), store, SEED, at_once=len(asked))
    display.table(made.dropped.groupby("reason").size().rename("questions").reset_index())
    display.say(
        "{pairs} of {questions} questions gave a pair.",
        pairs=len(made.samples) // 2,
        questions=len(asked),
    )
    chapter.browse(made.samples, list(made.samples["pair_id"].unique()[:2]))

# %% [markdown]
# The table counts the questions that gave no pair, by reason; unfold a pair below it to see both
# answers. A question is lost if all clear tries agree, or if no try names an option. These pairs
# are only shown. The benchmark keeps the written ones, whose labels do not hang on what one small
# model happens to say.

# %% [markdown]
# ## Real pairs from public files
#
# Some public files already hold two answers to one request, one right and one wrong. There
# are model solutions to GSM8K, programs of coding agents, marked reasoning chains and human
# preferences. They need no generator, and they make a second test set. It is always reported
# apart, because its errors are honest mistakes rather than sycophancy or gaming. (The files
# of BIG-Bench-Mistake hold one chain per problem, and the lie-detector transcripts share no
# usable request, so neither gives pairs.)

# %% tags=["nbval-ignore-output"]
real = chapter.real_pairs.load(run)
if real is not None:
    found = real.overview[real.overview["pairs"] > 0]
    display.table(found[["source", "cell", "pairs", "problems", "label_from"]])
    write_table(run, "real_samples", real.samples)
    write_table(run, "real_transcripts", real.unpaired)

# %% [markdown]
# ## The training corpus
#
# The corpus has five components of the published sizes. They are composed from the training
# side in the same way and streamed to disk. Near-duplicates are left out and replaced. To find
# them, take all runs of five words that occur in either of two samples, and ask which share of
# them occurs in both. This share is their Jaccard similarity, and MinHash [3] estimates it. A
# sample that reaches .9 with an earlier one, or with any test sample, does not enter.

# %%
report = chapter.Report()
parts = chapter.build_corpus(
    SEED,
    share=CORPUS_SHARE or run.profile.benchmark.corpus_share,
    processes=run.profile.benchmark.processes,
    test_texts=chapter.whole_texts(samples),
    scenarios=scenarios,
    report=report,
)
rows = write_parts(run, "corpus", parts)
display.say(
    "{rows:,} of {size:,} samples; {share:.1%} of those composed were no near-duplicate; "
    "{test} came near a test sample.",
    rows=rows,
    size=chapter.SIZE,
    share=report.distinct_share,
    test=report.near_test,
)

# %%
fig = chapter.figures.plot_corpus(chapter.overview.components(report))
display.show(
    fig,
    "01_corpus",
    alt="Samples in the five components of the training corpus, built here beside the "
    "published sizes.",
)

# %% [markdown]
# The blue dot is what this run built, the grey diamond the published size. Mind the
# logarithmic axis, on which equal steps multiply. The small profiles build an equal share of
# every component, so the distance between dot and diamond is the same in all rows.

# %% [markdown]
# ## Does it hold?
#
# Each line below states what must be true of the benchmark and stops the notebook if it is
# not. The last lines build the benchmark twice more, with the same seed and with another one.

# %%
per_pair = samples.groupby("pair_id")
assert samples.groupby("cell").size().to_dict() == chapter.COUNTS, "counts must be exact"
assert (per_pair["label"].sum() == 1).all(), "one benign, one misbehaving per pair"
assert (per_pair["request"].nunique() == 1).all(), "a pair shares its request"
assert (samples.groupby("scenario_id")["split"].nunique() == 1).all(), "splits share none"
executed = programs[programs["checked"]]
assert executed["confirmed"].all(), "every program must pass its check"
assert reasoning["confirmed"].all(), "every problem must confirm its label"
assert report.distinct_share >= 0.97, "the corpus must not repeat itself"
assert chapter.to_table(build_pairs(SEED, scenarios), SEED).equals(samples), "builds are equal"
other = chapter.to_table(build_pairs(SEED + 1, scenarios), SEED + 1)
assert len(other) == len(samples), "another seed changes no count"
changed = 1 - other["response"].isin(samples["response"]).mean()
print("counts, pairs, splits, labels and determinism hold")

# %% tags=["nbval-ignore-output"]
display.say("Another seed changed {changed:.1%} of the responses.", changed=changed)

# %% [markdown]
# ## Writing the outputs

# %%
write_table(run, "samples", samples)
write_table(run, "label_checks", chapter.overview.checks(programs, reasoning))
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
# - Where the language model is installed, we measured what each of the ten cues does to it.
# - We streamed a training corpus that shares no scenario with the benchmark.
#
# **Limits.** The texts are written and composed, not observed. They measure what a monitor
# can tell apart, not how often models misbehave. That a program of S&PV code is insecure is
# its author's word. The split of the published category sizes over code and QA is our
# reading. An honest bug and a gamed check can look the same in the real pairs. How far a cue sways
# a model depends on the model, and on how the letter is asked for.
#
# **Add your own.** `data/scenarios/CONTRIBUTING.md` says how; `python -m monitorlab
# scenarios` checks what you wrote.

# %% [markdown]
# ## Exercises
#
# 1. Read five pairs of one cell with the headings covered. How many labels do you guess?
#    <details><summary>Answer</summary>With the request at hand you guess nearly all, since
#    it holds the facts that decide. From the response alone you guess about half, if the
#    authors did their work. The next notebook measures it.</details>
# 2. Set `SEED` to 7. Which tables change, and which do not?
#    <details><summary>Answer</summary>Texts, names and the dev split change. The samples of
#    every cell stay as many.</details>
# 3. Why are the hidden tests' values compared outside of the program's process?
#    <details><summary>Answer</summary>A program can return an object that claims to be
#    equal to everything. Once the value has been written down as JSON, it cannot.
#    </details>
