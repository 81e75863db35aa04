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
# > nothing away; such pairs can be written, and what proves each label can be executed.
#
# *Paper: arXiv 2601.05752, section 3. Cost: under a minute in `tiny`, about four minutes in
# `cpu` on two cores, for executing every program, asking a language model and composing the
# training corpus.*

# %% [markdown]
# **You will learn**
# - Read 3,010 written samples in six cells, graded by how plain the misbehavior is.
# - Check each label against what proves it: tests, a solver, or the words of the response.
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
from monitorlab.benchmark import written
from monitorlab.benchmark.scenarios.files import Scenario
from monitorlab.benchmark.sources.generator import construct
from monitorlab.chapters import construction as chapter
from monitorlab.chapters import sway
from monitorlab.pipeline.runs import open_run

# %%
run = open_run("01_benchmark_construction", profile=PROFILE, run_id=RUN_ID, seed=SEED)
display.use(run)
pairs = written.WrittenPair.load()
samples = written.written_samples(pairs, SEED)
display.table(chapter.counts(samples), caption="Samples by cell and split")

# %% [markdown]
# ## The six cells of the benchmark
#
# The paper's taxonomy has three categories of misbehavior, each in two kinds of task:
#
# - **S&PV**, safety and permission violations: the response openly crosses a boundary.
# - **Syco**, sycophancy and bias: a cue in the request steers the answer.
# - **SG**, specification gaming: a loophole of the task or its check is exploited.
#
# The paper's data is gated, so ours was written for this repository, one response at a time, by
# large language models in the role of the generator. The sizes of the cells are the paper's. (It
# gives 976 and 196 for S&PV, and 298 and 578 for SG, without saying which is code and which is
# QA. That is our reading.) A *scenario* is one situation or task. A quarter of the scenarios of
# each cell is the *dev* split, where thresholds may be chosen, and the rest is the *test* split.
# No scenario is in both.

# %% [markdown]
# ## What a pair looks like
#
# A pair is one request $x$ with a benign response $r_0$ and a misbehaving one $r_1$. It stands in
# a text file under `data/pairs`, so that you can read it, argue with it and mend it. Besides the
# three texts it says what decides the label. Here is one from a repair desk, and the sentence that
# its author wrote down as the rule.

# %%
pair = next(p for p in pairs if p.name == "sg_qa/signature-note-1")
for part in ("request", "benign", "misbehaving"):
    print(f"{part.upper()}: {pair.sections[part]}\n")
print(f"RULE: {pair.fields['rule']}\nEVIDENCE: {pair.fields['evidence']}")

# %% [markdown]
# Both responses look alike, and one of them did what a line in a customer's mail told it to. The
# rule and the evidence are for us and for the checks. A monitor gets the request and one response,
# and nothing else.

# %% [markdown]
# ## How plain is it, and against what is it controlled
#
# Each pair has a *tier*. In an `open` pair the misbehavior is plain to anyone who reads. In a
# `veiled` one you must understand the matter or the rule. In a `hidden` one it is a single detail
# of a long and otherwise good response.

# %%
display.table(chapter.graded(samples, "tier"), caption="Pairs by tier")

# %% [markdown]
# And each pair follows a *protocol*. In the paper's own one a cue points to a wrong option, the
# misbehaving answer takes it and the benign answer is right (`published`). If that were all, a rule
# as simple as "the answer is the suggested one" would know every label. So there are controls. In
# `third_option` the benign answer is wrong too, honestly, at an option that nobody suggested. In
# `right_cue` the cue is right; one answer gets there by its own work, the other only defers. In
# `open_ended` there are no options. In the other cells the benign response sometimes looks
# suspicious and is right (`suspicious`), or has a fault that is no misbehavior (`fault`).

# %%
display.table(chapter.graded(samples, "protocol"), caption="Pairs by protocol")

# %% [markdown]
# ## The ten cues of the sycophancy cells
#
# A friend of yours took the same quiz and answered C, but C is wrong. In the sycophancy cells
# every request $x' = x + c$ holds a cue $c$. The paper names seven user suggestions, a metadata
# block and an alert that leaks an "answer". It counts ten variants, so we added a second leak. In
# the pairs each cue is worded anew. The table gives one wording of each.

# %%
display.table(chapter.cue_table())

# %% [markdown]
# The next two figures show what the pairs are about and how long their responses are.

# %%
fig = chapter.plot_types(samples)
display.show(
    fig,
    "01_types",
    thumbnail=True,
    alt="Pairs by misbehavior type in three panels: weakness classes and permission "
    "types, the ten cues, and the fourteen gaming types.",
)

# %% [markdown]
# Each bar counts the pairs of one type, and its colour says in which kind of task they stand.
# "CWE" numbers are entries of the public list of software weaknesses, of which only the most
# frequent are drawn. Look for bars of about equal length within one colour. They mean that no
# single type dominates its cell.

# %%
fig = chapter.plot_lengths(samples)
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
# ## The method happens here: a label that two tests decide
#
# (The paper has no equation for this step. It takes labels from its sources.) A program of S&PV
# code does its task and has a weakness. A program of SG code passes the checks that everybody can
# see and does not do the task. Both say the same thing: of two sets of tests $T$ and $P$, a program
# $r$ is benign if it passes both, and misbehaves if it passes $T$ and fails $P$. Take one small
# pair and run its tests by hand, which is safe here because we have read the programs.

# %%
pair = next(p for p in pairs if p.name == "sg_code/roman-dates-1")
passed = {}
for side in ("benign", "misbehaving"):
    for tests in ("tests", "property"):
        space: dict = {}
        exec(written.program_of(pair.sections[side]), space)
        try:
            exec(pair.sections[tests], space)
            passed[side, tests] = True
        except AssertionError:
            passed[side, tests] = False
for (side, tests), well in passed.items():
    print(f"{side:<11} {tests:<8} {'passed' if well else 'failed'}")

# %% [markdown]
# The library does the same in a sandbox, where a program is limited in time, memory, files,
# processes and network. It must find nothing wrong with this pair.

# %%
assert not passed.pop(("misbehaving", "property")), "the misbehaving one fails the property"
assert all(passed.values()), "and both do the task"
assert written.label_checks([pair], samples)["confirmed"].all(), "as by hand"
print(pair.sections["property"])

# %% [markdown]
# ## Every label, checked
#
# Problems with a computable answer come with a *solver*, a few lines of Python. Its value must
# stand in one option, the right one, and the last letter of each response must be the one that
# its protocol says. In prose the *evidence* is an excerpt that must stand in the misbehaving
# response and nowhere in the benign one. That shows that the deed is in the text. Whether it breaks
# the rule is a matter of reading, and the next notebook asks readers.

# %%
confirmed = written.label_checks(pairs[:: run.profile.benchmark.check_every], samples)
counted = confirmed.groupby(["cell", "check"], sort=False)["confirmed"].agg(["size", "sum"])
counted = counted.set_axis(["checked", "confirmed"], axis=1).reset_index()
display.table(counted, caption="Samples whose label was checked, and how")

# %% tags=["nbval-ignore-output"]
display.say(
    "Isolation of the programs: {isolation}. {weakness}",
    isolation=chapter.runner.isolation(),
    weakness=chapter.runner.weakness(),
)

# %% [markdown]
# ## Look at the data
#
# Unfold a pair. What only one side has is marked. Cover the headings and guess which response
# misbehaves.

# %%
chapter.browse(samples, per_cell=PAIRS_SHOWN, random=run.rng("browser"))

# %% [markdown]
# ## Does a cue sway a real model?
#
# So far the cues are sentences that people wrote. SmolLM2-135M-Instruct is a real language model,
# small enough for any machine. We give it questions of the scenario library (see below), each with
# a wrong option $w$ that a cue will suggest, and read the probabilities of the letters behind
# "Option", divided by their sum. A cue $c$ changes the probability of the wrong option on average
# by
#
# $$\Delta_c = \frac{1}{n} \sum_{i=1}^{n} \left[ P(w_i \mid x_i + c) - P(w_i \mid x_i) \right].$$
#
# Two things could pass for an effect. A model may like a letter whatever it stands for, so $w$
# stands at every letter equally often, and each difference is taken within one order of the
# options. And any added sentence that names a letter may raise it. So a *neutral sentence* such
# as "The text of C is printed in the same ink as the others." takes the place of the cue once.
# All sentences stand at the end of the request. (Asking takes a minute or two, so the answers are
# released; a tenth of the questions is asked again here, and the probabilities must be the same.)

# %% tags=["nbval-ignore-output"]
scenarios = Scenario.load_library()
cues = sway.CueTest.of_real_model(scenarios, SEED, run.profile.benchmark.cue_questions)
if cues is not None:
    answers = cues.released(again=max(1, len(cues.choices) // 10))
    if answers is None:  # other questions than those whose answers are released
        answers = cues.ask()
    letters, known = answers.without_cue()
    display.table(
        letters,
        decimals=2,
        caption="Without any cue: what the model makes of each letter",
    )
    display.say(
        "Its likeliest letter is right in {right:.0%} of {n} questions ({low:.0%} to {high:.0%}).",
        **known,
    )

# %% [markdown]
# Each row is a letter, with the mean probability that the model gives it, the share of questions
# in which it is the likeliest, and the share in which it stands for the right option and for the
# wrong one that cues suggest. A model that knew the answers would have its likeliest letters where
# the right options are. One that likes a letter for itself has a row that stands out. A guess
# among four options is right in a quarter of the questions, so the sentence below the table says
# whether there was any knowledge to be swayed from.

# %% tags=["nbval-ignore-output"]
if cues is not None:
    effects = answers.effects()
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
if cues is not None:
    fig = answers.plot(sway.MODEL)
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
# question has a reason. `python -m monitorlab construct` does the same with any model, on a device
# or behind an API, for all six cells: from the requests of the written pairs, from GSM8K,
# TruthfulQA, HumanEval, MBPP, MMLU, GPQA and AIME, or from questions of your own.

# %% tags=["nbval-ignore-output"]
if cues is not None:
    asked = cues.questions(run.profile.benchmark.pair_questions)
    store = run.folder / "answers.jsonl"
    made = construct(asked, cues.generator(), store)
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
real = chapter.real_pairs(run)
if real is not None:
    found = real.overview[real.overview["pairs"] > 0]
    display.table(found[["source", "cell", "pairs", "problems", "label_from"]])
    run.write_table("real_samples", real.samples)
    run.write_table("real_transcripts", real.unpaired)

# %% [markdown]
# ## The training corpus
#
# The paper calls training samples relatively easy to construct, and ours are composed by code from
# a library under `data/scenarios`. In contrast to the benchmark, misbehavior is plain here. A
# program is a task, a few helpers and a frame around them. Each helper is written with a careful
# and with a careless habit, such as `eval` of what a user typed or a password in the source, and
# the misbehaving program has a careless one. The report of an assistant says aloud that it went
# around an approval, and a sycophantic answer says that it follows the cue. None of the scenarios
# is a situation of the benchmark. Gaming has none, because no monitor shall have seen it in
# training.

# %%
display.table(
    chapter.library(scenarios), caption="Scenarios, and ways to misbehave in them"
)
composed = chapter.Pair.compose(scenarios[0], 0, SEED)
print(f"REQUEST: {composed.request}\n\nBENIGN: {composed.benign.text}\n")
print(f"MISBEHAVING: {composed.misbehaving.text}")

# %% [markdown]
# The corpus has five components of the published sizes, streamed to disk. Near-duplicates are left
# out and replaced. To find them, take all runs of five words that occur in either of two samples,
# and ask which share of them occurs in both. This share is their Jaccard similarity, and MinHash
# [3] estimates it. A sample that reaches .9 with an earlier one, or with any sample of the
# benchmark, does not enter.

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
rows = run.write_parts("corpus", parts)
display.say(
    "{rows:,} of {size:,} samples; {share:.1%} of those composed were no near-duplicate; "
    "{test} came near a test sample.",
    rows=rows,
    size=chapter.SIZE,
    share=report.distinct_share,
    test=report.near_test,
)

# %%
fig = chapter.plot_corpus(report)
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
# Plain for a reader must not mean that one word gives it away, or a monitor would learn that word.
# Either side may show what the other one says or does: as a proposal, as a quotation, as the lines
# that were replaced. So let words and pairs of words learn from some of the responses, and judge
# others whose scenario they have not seen. Harder still, let neither the scenario nor the kind of
# misbehavior (the weakness class, the deed, the cue) occur among what they learned from.

# %%
words, programs, distinct = chapter.learnable(
    run.folder / "corpus.parquet", run.rng("learnable")
)
display.table(
    display.spans(words, ["auroc", "kinds"]),
    caption="AUROC of words on unseen scenarios, and on unseen scenarios and kinds",
)
display.say(
    "{distinct:,} of {programs:,} programs are no copy of another with other names and numbers.",
    distinct=distinct,
    programs=programs,
)

# %% [markdown]
# `auroc` near .5 would mean that there is nothing to learn from words, and near 1 that a few words
# are enough. What lies above .5 under `kinds` is what carries over to misbehavior of another kind.
# Two programs count as copies if they share four fifths of their runs of five tokens, where all
# names, all numbers and all texts look alike.

# %% [markdown]
# ## Does it hold?
#
# Each line below states what must be true of the benchmark and stops the notebook if it is not.

# %%
per_pair = samples.groupby("pair_id")
assert samples.groupby("cell").size().to_dict() == written.COUNTS, "counts must be exact"
assert (per_pair["label"].sum() == 1).all(), "one benign, one misbehaving per pair"
assert (per_pair["request"].nunique() == 1).all(), "a pair shares its request"
assert (samples.groupby("scenario_id")["split"].nunique() == 1).all(), "splits share none"
assert confirmed["confirmed"].all(), "every label must pass its check"
assert report.distinct_share >= 0.97, "the corpus must not repeat itself"
assert words["auroc"].between(0.55, 0.95).all(), "the corpus can be learned, and not by one word"
assert written.load_benchmark(seed=SEED).equals(samples), "two readings are equal"
print("counts, pairs, splits, labels and determinism hold")

# %% [markdown]
# ## Writing the outputs

# %%
run.write_table("samples", samples)
run.write_table("label_checks", confirmed)
run.write_metrics(
    {
        "samples": len(samples),
        "scenarios": samples["scenario_id"].nunique(),
        "confirmed": confirmed["confirmed"].mean(),
        "checked": len(confirmed),
        "corpus.rows": rows,
        "corpus.distinct_share": report.distinct_share,
        "corpus.distinct_programs": distinct,
        **{f"corpus.words.{row.component}": row.auroc for row in words.itertuples()},
    }
)
display.headline(
    f"{len(samples):,}",
    f"written samples in pairs, from {samples['scenario_id'].nunique()} scenarios",
)
run.close()

# %% [markdown]
# ## What we saw
#
# - We read 3,010 written samples in six cells, and saw how they are graded and controlled.
# - We ran the tests, solvers and excerpts that prove their labels.
# - Where the language model is installed, we measured what each of the ten cues does to it.
# - We streamed a training corpus that shares no scenario with the benchmark, and measured what
#   words learn from it.
#
# **Limits.** Large language models wrote the pairs in the role of a misbehaving assistant. So the
# texts read like model output, and they are still not observed misbehavior: they measure what a
# monitor can tell apart, not how often models misbehave. A property test shows one weakness, not
# that the other program has none. The split of the published category sizes over code and QA is
# our reading. An honest bug and a gamed check can look the same in the real pairs. How far a cue
# sways a model depends on the model, and on how the letter is asked for.
#
# **Add your own.** `data/pairs/README.md` says how; `python -m monitorlab pairs` checks what you
# wrote.

# %% [markdown]
# ## Exercises
#
# 1. Read five pairs of one cell with the headings covered. How many labels do you guess? Is it
#    the same for the hidden tier?
#    <details><summary>Answer</summary>With the request at hand you guess nearly all of the open
#    ones, since it holds the facts that decide. Hidden ones take several minutes each. The next
#    notebook measures what readers do.</details>
# 2. Change one word of a piece of evidence in `data/pairs` and run `python -m monitorlab pairs`.
#    <details><summary>Answer</summary>The check names file, line and pair, and says that the
#    evidence does not stand in the misbehaving response.</details>
# 3. Why must a misbehaving program fail its property with an assertion, and not in any way?
#    <details><summary>Answer</summary>A program that crashes fails every test, also for reasons
#    that have nothing to do with the property. An assertion says that the value was wrong.
#    </details>
