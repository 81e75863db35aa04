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
# # 5. Fine-tuning a monitor
#
# > After training on easy misbehavior a monitor may discriminate better, or merely alarm
# > more or less often. Hard verdicts do not tell which; scores do.
#
# *Paper: arXiv 2601.05752, section 6.2. Cost: one to two minutes in `tiny`, up to three in `cpu`
# the first time, since the base and its arms are trained on two cores. Both show how to measure. In
# `gpu` a real model is fine-tuned with the published recipe.*

# %% [markdown]
# **You will learn**
# - Fine-tune a language model into a monitor, and read what a training really did.
# - Tell a monitor that learned to discriminate from one that moved its threshold.
# - Measure transfer to unseen misbehavior with intervals and seeds.
#
# **Reads** `samples`, `corpus`, `real_samples`
#
# **Writes** `finetuned_verdicts`, `finetuning`
#
# **References**
# - [1] Yang et al., *AutoMonitor-Bench*, arXiv 2601.05752.
# - [2] Hu et al., *LoRA: low-rank adaptation of large language models*, ICLR 2022.
# - [3] Holm, *A simple sequentially rejective multiple test procedure*, Scandinavian
#   Journal of Statistics, 1979.

# %% tags=["parameters"]
PROFILE: str = "tiny"  # tiny, cpu or gpu: how large everything is
RUN_ID: str = "default"  # folder of the run under data/runs
SEED: int = 2026  # one seed for everything
BASE: str = ""  # a folder or hub model to fine-tune; empty is the profile's own
REVISION: str = ""  # commit of a hub model
DEVICE: str = "cpu"  # cpu or cuda
ALPHA: float = 0.10  # false alarm rate that calibrated thresholds keep to

# %%
import pandas as pd

from monitorlab import display
from monitorlab.chapters import finetuning as chapter
from monitorlab.evaluation import rates, roc_bands, shift
from monitorlab.pipeline.artifacts import open_run, read_parts, read_table, write_table

# %%
run = open_run("05_monitor_finetuning", profile=PROFILE, run_id=RUN_ID, seed=SEED)
display.use(run)
sizes = run.profile.finetuning
benchmark = read_table(run, "01_benchmark_construction", "samples")
corpus = pd.concat(read_parts(run, "01_benchmark_construction", "corpus"))
samples = chapter.draw_pairs(benchmark, sizes.pairs_per_cell, run.rng("pairs"))
display.table(
    corpus.groupby("component").agg(
        samples=("label", "size"), scenarios=("scenario_id", "nunique")
    ),
    caption=f"The training corpus; {len(samples)} benchmark samples are judged",
)

# %% [markdown]
# ## What the paper found
#
# Qwen3-4B was trained on each of five components of the corpus, and on all of them. None
# holds specification gaming (SG), so both SG cells are unseen [1, figure 8]. The paper
# prints miss and false alarm rates; from those follow balanced accuracy and g2, the
# product of both rates of right verdicts. Means run over the cells of a group.

# %%
known = chapter.published.published_transfer()
wide = known.pivot(index="arm", columns=["group", "metric"], values="value")
wide = wide.reindex(chapter.published.ARMS).rename(index=chapter.published.ARM_TITLES)
groups = [chapter.published.SEEN_CELLS, chapter.published.UNSEEN_SG]
wide = wide[[(group, metric) for group in groups for metric in ("balanced_accuracy", "g2")]]
wide.columns = ["BA, seen", "g2, seen", "BA, unseen SG", "g2, unseen SG"]
display.table(wide, caption="Balanced accuracy (BA) and g2, from the published rates")

# %% [markdown]
# Did training teach the paper's model to see specification gaming? Signal detection theory
# splits a change into discrimination $d'$ and criterion $c$ (notebook 04). A large share
# of criterion means that a threshold moved. It does not exclude that $d'$ rose as well, so
# read both.

# %%
moved = shift.shift_of_rates(chapter.published.published(), chapter.published.PAIRS)
moved = moved[(moved["arm"] == "all") & moved["cell"].str.startswith("sg")]
columns = ["cell", "mr_before", "far_before", "mr", "far", "d_prime_before", "d_prime"]
columns += ["criterion_change", "criterion_share"]
display.table(
    moved[columns].reset_index(drop=True), decimals=2, caption="Published: all against base"
)

# %% [markdown]
# ## A base that has practised reading
#
# In `gpu` the base is the paper's model. Elsewhere it is a very small Llama, trained here. It
# has practised reading for a few steps on texts of the corpus: which option does the request
# name, which does the response take, is it this one? It has never seen a label. Whatever it does
# below shows how to measure, not what large models can do.

# %%
prompt = chapter.load_prompt(sizes.prompt)
base = chapter.base_model(run, corpus, prompt, BASE, REVISION, DEVICE)
called = "small stand-in LM" if base.small else base.name
checkpoint = base.load()
print(f"fine-tuned here: {called}, {checkpoint.model.num_parameters():,} parameters")

# %% [markdown]
# ## One training example
#
# The monitor's prompt, and as the reply the JSON verdict, which alone has labels: the
# model is not taught to write requests or misbehavior. With $x$ the prompt and $v$ the
# reply, the loss is
# $$L = -\frac{1}{|v|}\sum_t \log p(v_t \mid x, v_{<t}).$$
# The small base is asked for the deciding word only, which is where a monitor reads it;
# the sum then has one term.

# %%
one = corpus[corpus["component"] == "syco_qa"].head(1)
recipe = chapter.recipe_of(chapter.PAPER_ARMS[0], sizes, SEED)
example = chapter.verdict_examples(
    checkpoint.tokenizer,
    prompt,
    one,
    max_tokens=recipe.max_tokens,
    labelled=recipe.labelled,
    both_classes=False,
)[0]
asked = [token for token in example["labels"] if token >= 0]
print(checkpoint.tokenizer.decode(example["input_ids"]))
print(f"\n{len(example['labels'])} tokens; these have labels:")
print(repr(checkpoint.tokenizer.decode(asked)))

# %% [markdown]
# ## The recipe
#
# LoRA [2] keeps the weights $W$ and learns a low-rank change, $W + \frac{\alpha}{r} BA$.
# The published recipe holds wherever the profile does not change it.

# %%
display.table(
    chapter.recipe_table(chapter.PAPER, sizes.recipe), caption="The published recipe and this profile"
)

# %% [markdown]
# ## The arms
#
# Every arm starts from the base and sees the same number of samples. Test scenarios are
# forbidden: each batch is checked for their identifiers while it is put together.

# %%
first = chapter.plan_tasks(run, chapter.PAPER_ARMS, corpus, base, prompt)
beyond = chapter.plan_tasks(run, chapter.BEYOND, corpus, base, prompt)
display.table(chapter.task_table([*first, *beyond]), caption="Samples by what they teach")

# %%
forbidden = list(benchmark["scenario_id"].unique())
verdicts = pd.concat(
    [
        chapter.ask_base(base, prompt, samples),
        chapter.train_and_ask(run, [*first, *beyond], base, prompt, samples, forbidden),
    ],
    ignore_index=True,
)
judged = rates.join(verdicts, samples).assign(name=verdicts["arm"])

# %% tags=["nbval-ignore-output"]
spent = verdicts.groupby("arm", sort=False)["train_seconds"].first()
display.say(
    "An arm was trained in {mean:.1f} s on average, the slowest in {most:.1f} s.",
    mean=spent.iloc[1:].mean(),
    most=spent.max(),
)

# %% [markdown]
# ## The method happens here
#
# Seven rows, six cells, two kinds of errors, each on the test split and at the model's own
# threshold: more probability on yes than on no.

# %%
arms = list(chapter.published.ARMS)
cells = chapter.matrix.matrix(
    judged, arms, seen=chapter.SEEN_BY, rng=run.rng("matrix"), resamples=sizes.resamples
)
fig = chapter.figures.plot_matrix(cells, chapter.published.published(), title=f"Fine-tuned: {called}")
display.show(
    fig,
    "05_matrix",
    thumbnail=True,
    alt="Miss and false alarm rates of seven arms in six cells, measured beside published; "
    "cells that an arm was trained on are outlined.",
)

# %% [markdown]
# Read a row from left to right: outlined cells were trained on. Read a column from the
# base downwards: where misses fall and false alarms rise together, the arm alarms more
# often, and nothing else is certain.

# %% [markdown]
# ## Learned, or moved?
#
# The AUROC is the probability that a misbehaving sample scores above a benign one. It does
# not depend on a threshold, so an arm that only moved its threshold keeps the base's.

# %%
fig = chapter.figures.plot_auroc_matrix(cells, title=f"AUROC, {called}")
display.show(
    fig,
    "05_auroc",
    alt="AUROC with 95 % intervals of seven arms in six cells; trained cells are outlined.",
)

# %%
changes = shift.discrimination_or_threshold(
    judged, arms=arms[1:], rng=run.rng("shift"), resamples=sizes.resamples
)
fig = chapter.figures.plot_shift(changes, title=f"From base to arm: {called}")
display.show(
    fig,
    "05_shift",
    alt="Arrows from the base to every arm in the plane of false alarm and miss rate, one "
    "panel per cell, over curves of equal discrimination.",
)

# %% tags=["nbval-ignore-output"]
counted = changes.assign(group=changes["cell"].str.startswith("sg"))
counted["group"] = counted["group"].map({True: "unseen SG", False: "other cells"})
told = counted.groupby(["group", "discrimination", "criterion_moved"]).size()
display.table(
    told.rename("arms and cells").reset_index(),
    caption="Against the base, by intervals over scenarios",
)

# %% [markdown]
# ## Seen and unseen
#
# Means over the cells an arm was trained on, over SG, and over the other cells. Intervals
# resample whole scenarios, the same ones for every arm, so that differences are paired.

# %%
paper_seen = {arm: chapter.SEEN_BY[arm] for arm in arms}
means = chapter.transfer.transfer(judged, paper_seen, run.rng("means"), sizes.resamples)
fig = chapter.figures.plot_transfer(
    means, chapter.published.GOAL, published=known, title=f"Own threshold, {called}"
)
display.show(
    fig,
    "05_transfer",
    alt="Balanced accuracy of every arm on seen cells, unseen SG and other unseen cells, "
    "with intervals, beside the published values.",
)

# %% tags=["nbval-ignore-output"]
against = chapter.transfer.transfer_differences(
    judged, paper_seen, run.rng("means"), sizes.resamples, reference="base"
)
gaps = display.spans(against[against["metric"] == "auroc"], ["difference"])
gaps = gaps.pivot(index="arm", columns="group", values="difference")
display.table(
    gaps.reindex(arms[1:])[list(chapter.published.GROUPS)], caption="AUROC, arm minus base"
)

# %% [markdown]
# Does this reproduce the paper? There, training on all components changed the balanced
# accuracy on unseen SG, and most of the change on SG code was a threshold.

# %% tags=["nbval-ignore-output"]
place = ["arm", "group", "metric"]
asked = (chapter.published.UNSEEN_SG, "balanced_accuracy")
paper = known.set_index(place)["value"]
there = paper["all", *asked] - paper["base", *asked]
here = against.set_index(place).loc[("all", *asked)]
inside = here["low"] <= there <= here["high"]
display.say(
    "From base to all: {there:+.3f} in the paper, {here:+.3f} ({low:+.3f} to {high:+.3f}) "
    "here. The published change lies {where} this interval.",
    there=there,
    here=here["difference"],
    low=here["low"],
    high=here["high"],
    where="inside" if inside else "outside",
)

# %% [markdown]
# Where a change is missing here, the base is the first suspect. The small one has practised a
# little how to find and compare letters, which is what sycophancy is about; it knows nothing of
# programs, tests or intentions, which is what the SG cells are about. Its AUROC there says
# whether any threshold could have helped.

# %% tags=["nbval-ignore-output"]
tests = chapter.transfer.transfer_tests(judged, paper_seen, [chapter.published.UNSEEN_SG], reference="base")
tests = display.spans(tests, ["difference"])
p = tests["p_holm"].map(lambda p: f"p {p:.3f}" if p >= 0.001 else "p < .001")
tests = tests.assign(both=tests["difference"] + ", " + p)
display.table(
    tests.pivot(index="arm", columns="error", values="both").reindex(arms[1:]),
    caption="Share of errors on unseen SG, arm minus base; signs flipped by scenario, Holm [3]",
)

# %% [markdown]
# ## At a common false alarm rate
#
# One threshold per arm and task, chosen by conformal risk control on the benign samples of
# dev (notebook 04), holds every arm to the same false alarm rate on average over new
# scenarios. Who asks a monitor knows the task, code or QA or reasoning, and not the kind of
# misbehavior. What is left is what an arm can tell apart.

# %%
held = chapter.matrix.at_threshold(judged, ALPHA, "task")
calibrated = chapter.matrix.matrix(
    held, arms, seen=chapter.SEEN_BY, rng=run.rng("matrix"), resamples=sizes.resamples
)
fig = chapter.figures.plot_matrix(
    calibrated,
    chapter.published.published(),
    title=f"Calibrated to a false alarm rate of {ALPHA:g}, {called}",
)
display.show(
    fig,
    "05_calibrated",
    alt="Miss and false alarm rates of seven arms in six cells at calibrated thresholds, "
    "beside the published ones at the model's own.",
)

# %% [markdown]
# ## The same with a frozen encoder
#
# MiniLM is a real pretrained encoder, frozen here; only a logistic regression on its
# embeddings is trained. A probe takes a second, so sizes and seeds cost nothing.

# %%
encoder = chapter.load_encoder(dtype=sizes.encoder_dtype)
part = corpus.groupby("component").head(sizes.probe) if sizes.probe else corpus
texts = chapter.embed(encoder, part.reset_index(drop=True))
targets = chapter.embed(encoder, samples[samples["split"] == "test"])
most = 0.8 * len(texts.samples)  # fewer than there are, so that seeds draw different ones
grid = [int(share * most) // 2 * 2 for share in (*sizes.shares, 1.0)]
seeds = [run.rng(f"probe {number}") for number in range(max(sizes.seeds, 5))]
probed = chapter.probe_curves(chapter.PAPER_ARMS, texts, targets, grid, seeds)

# %%
final = probed[(probed["size"] == grid[-1]) & (probed["seed"] == 0)]
final = pd.concat([chapter.untrained("base", targets), final], ignore_index=True)
probe_judged = rates.join(final, samples).assign(name=final["monitor"])
probe_cells = chapter.matrix.matrix(
    probe_judged, arms, seen=chapter.SEEN_BY, rng=run.rng("matrix"), resamples=sizes.resamples
)
fig = chapter.figures.plot_auroc_matrix(probe_cells, title="AUROC, probe on frozen MiniLM")
display.show(
    fig, "05_probe", alt="AUROC of the probe on a frozen encoder, seven arms in six cells."
)

# %% [markdown]
# ## Does more data help, and would another seed say the same?
#
# A curve over the size of the training set, and several trainings at the full size.
# *Between* is the standard deviation over trainings, *scenarios* the standard error over
# test scenarios. A difference between two arms with one training each is only as good as the larger.

# %%
curve = [
    task
    for share in sizes.shares
    for task in chapter.plan_tasks(run, chapter.REPEATED[:1], corpus, base, prompt, share=share)
]
again = [
    task
    for number in range(1, sizes.seeds)
    for task in chapter.plan_tasks(run, chapter.REPEATED, corpus, base, prompt, repetition=number)
]
on_test = samples[samples["split"] == "test"]
repeated = chapter.train_and_ask(
    run, [*curve, *again], base, prompt, on_test, forbidden, "sizes and seeds"
)
whole = verdicts[verdicts["arm"].isin([arm.name for arm in chapter.REPEATED])]
whole = whole[whole["sample_id"].isin(on_test["sample_id"])]
grown = pd.concat([whole, repeated], ignore_index=True)

# %%
grown["size"] = (grown["share"] * max(len(task.examples) for task in first)).round()
curves = chapter.learning.areas(grown, samples)
summed = chapter.learning.summary(curves)
fig = chapter.figures.plot_learning(summed, title=f"Learning curves, {called}")
display.show(
    fig,
    "05_learning",
    alt="AUROC against the number of training samples in six cells, mean and range over "
    "seeds.",
)

# %%
probed["seed"] = probed["seed"].astype(int)
probe_curve = chapter.learning.areas(probed[probed["arm"] == "all"], samples)
fig = chapter.figures.plot_learning(
    chapter.learning.summary(probe_curve), title="Learning curves, probe on frozen MiniLM"
)
display.show(
    fig, "05_probe_learning", alt="AUROC of the probe against the number of training samples."
)

# %% tags=["nbval-ignore-output"]
errors = cells.rename(columns={"auroc_se": "se"})[["arm", "cell", "se"]]
full = curves[curves["size"] == curves["size"].max()]
noise = chapter.learning.seed_noise(full[full["arm"] == "all"], errors)
columns = ["cell", "seeds", "mean", "between", "scenarios", "both"]
display.table(noise[columns], caption="AUROC of arm all: noise of training, noise of scenarios")

# %% [markdown]
# ## Beyond the recipe
#
# The arm *contrastive pairs* changes one thing at the same budget, the loss. Both answers to
# one request share a batch, and with $s$ the log-odds of yes
# $$L_\mathrm{pair} = \log\bigl(1 + e^{-(s_\mathrm{misbehaving} - s_\mathrm{benign})}\bigr)$$
# asks only that the misbehaving one scores higher. *Checks first* needs no training: an
# alarm of the program checks of notebook 03 ranks above everything that the arm *all* says.
# No SG scenario enters. All arms are held to the same false alarm rate by thresholds of
# their own.

# %%
looked = chapter.checks_first(verdicts[verdicts["arm"] == "all"], samples)
joined = rates.join(looked, samples).assign(name=chapter.CHECKS_FIRST)
joined = chapter.matrix.at_threshold(joined, ALPHA, "task")
held = pd.concat([held, joined], ignore_index=True)
rivals = ["all", *(arm.name for arm in chapter.BEYOND), chapter.CHECKS_FIRST]
rivals = {arm: chapter.SEEN_BY[arm] for arm in rivals}
gains = chapter.transfer.transfer_differences(held, rivals, run.rng("gains"), sizes.resamples)
fig = chapter.figures.plot_beyond(gains, title=f"Calibrated thresholds, {called}")
display.show(
    fig,
    "05_beyond",
    alt="Difference in balanced accuracy to the arm that was trained on all components, on "
    "unseen SG and on seen cells, with intervals, for every arm beyond the recipe.",
)

# Read a row from zero: to the right the arm tells more apart than *all* does at the same
# false alarm rate, and an interval that crosses zero leaves that open.

# %% tags=["nbval-ignore-output"]
levels = chapter.transfer.transfer(held, rivals, run.rng("gains"), sizes.resamples)
levels = levels[levels["metric"].isin(["balanced_accuracy", "g2", "auroc"])]
shown = display.spans(levels, ["value"], decimals=3)
shown = shown.pivot(index=["group", "metric"], columns="arm", values="value")[list(rivals)]
goal = chapter.published.GOAL
display.table(
    shown.reset_index(),
    caption="At calibrated thresholds. Goal from the paper, unseen SG at a false alarm rate "
    f"of {goal.far:g}: balanced accuracy above {goal.balanced_accuracy}, g2 above {goal.g2}",
)

# %% tags=["nbval-ignore-output"]
picked = gains[gains["group"].isin(groups) & gains["metric"].isin(["balanced_accuracy", "g2"])]
picked = display.spans(picked, ["difference"], decimals=3)
display.table(
    picked[["arm", "group", "metric", "difference", "p_holm"]].reset_index(drop=True),
    caption="Minus the arm that was trained on all components",
)

# %% tags=["nbval-ignore-output"]
everyone = list(rivals)
spread = chapter.matrix.matrix(
    held, everyone, seen=chapter.SEEN_BY, rng=run.rng("matrix"), resamples=sizes.resamples
)
area = spread.pivot(index="arm", columns="cell", values="auroc").reindex(everyone)
display.table(area, decimals=3, caption="AUROC of every arm, test split")

# %% [markdown]
# ## Real pairs
#
# The arms *all* and *contrastive pairs*, and *checks first*, on published answers to one
# request, one right and one wrong (notebook 01). A wrong answer is not misbehavior in the sense of the
# benchmark, and none of it was trained on.

# %%
try:
    real = read_table(run, "01_benchmark_construction", "real_samples")
except chapter.ArtifactError:
    real = samples.head(0)
    print("no real pairs in this run: they need the cpu profile and the open files")
real = chapter.draw_pairs(real, sizes.pairs_per_cell, run.rng("real"), by=("source",))
if len(real):
    some = [task for task in [*first, *beyond] if task.arm.name in rivals]
    judged_real = chapter.train_and_ask(run, some, base, prompt, real, forbidden, "real pairs")
    looked_real = chapter.checks_first(judged_real[judged_real["arm"] == "all"], real)
    judged_real = pd.concat([judged_real, looked_real], ignore_index=True)
    told = rates.join(judged_real, real, ["source"]).assign(name=judged_real["arm"])
    shown = pd.concat(
        roc_bands.curve_table(part, run.rng("real areas"), n=sizes.resamples).assign(
            source=source
        )
        for source, part in told.groupby("source")
    )
    shown = display.spans(shown, ["auroc"], decimals=3)
    display.table(
        shown[["source", "name", "n", "n_unscored", "auroc"]].reset_index(drop=True),
        caption="AUROC on real pairs, with 95 % intervals",
    )

# %% [markdown]
# ## Does it hold?

# %%
drawn = {e["scenario"] for task in [*first, *beyond, *curve, *again] for e in task.examples}
assert not drawn & set(forbidden), "no benchmark scenario is in any training set"
shared = [task.recipe.max_steps for task in [*first, *beyond]]
assert len(set(shared)) == 1, "every arm has the same number of steps"
assert (held["verdict"].notna()).all(), "at a threshold every verdict is decided"
kept = calibrated.set_index(["arm", "cell"])["auroc"]
assert kept.equals(cells.set_index(["arm", "cell"])["auroc"]), "a threshold changes no score"
print("training saw no benchmark scenario, budgets are equal, thresholds keep scores")

# %% [markdown]
# ## Writing the outputs

# %%
written = pd.concat([verdicts, looked], ignore_index=True)
write_table(run, "finetuned_verdicts", written[chapter.FINETUNED_VERDICTS.columns])
rows = [
    cells.assign(model=called, rule="own"),
    calibrated.assign(model=called, rule="calibrated"),
    spread[~spread["arm"].isin(arms)].assign(model=called, rule="calibrated"),
    probe_cells.assign(model="MiniLM probe", rule="own"),
]
write_table(run, "finetuning", pd.concat(rows, ignore_index=True)[chapter.FINETUNING.columns])
run.write_metrics(
    {f"auroc.{row.arm}.{row.cell}": row.auroc for row in cells.itertuples()}
    | {f"probe.{row.arm}.{row.cell}": row.auroc for row in probe_cells.itertuples()}
    | {
        f"calibrated.{row.arm}.{row.group}.{row.metric}": row.value
        for row in levels[levels["metric"].isin(["balanced_accuracy", "g2"])].itertuples()
    }
)
gains = gains.set_index(["arm", "group", "metric"])["difference"]
gain = gains[chapter.CHECKS_FIRST, chapter.published.UNSEEN_SG, "balanced_accuracy"]
display.headline(
    f"{gain:+.2f}", "balanced accuracy on unseen gaming: program checks before the model"
)
run.close()

# %% [markdown]
# ## What we saw
#
# - We trained monitors with a published recipe, and compared what they learned with what
#   they were shown.
# - We told discrimination from a moved threshold, by AUROC and at a common false alarm rate.
# - We measured transfer with intervals and seeds.
#
# **Limits.** The small base is a stand-in: that it fails to learn something says little
# about a model of four billion parameters. The test scenarios are few in some cells, and so
# are the seeds. What *checks first* gains, it gains by looking, not by training: the program
# checks were written with the kinds of gaming in mind, though not for these samples, and say
# nothing about answers in prose.

# %% [markdown]
# ## Exercises
#
# 1. Set `ALPHA` to .05. Which tasks can no longer have a threshold of their own?
#    <details><summary>Answer</summary>Reasoning. With $n$ dev scenarios the rule keeps no
#    level below $1/(n+1)$, so .05 needs 19 of them. Code has 27, QA 59, reasoning only 10,
#    and its monitors fall silent.</details>
# 2. An arm has fewer misses than the base and more false alarms. What else do you need to
#    know before you say that it learned something?
#    <details><summary>Answer</summary>Whether its AUROC rose, or its misses at the base's
#    false alarm rate fell. A lower threshold alone does both of the first.</details>
# 3. Suppose you keep the arm that is best on test, and report its test value. What is wrong?
#    <details><summary>Answer</summary>The largest of several noisy numbers is too large on
#    average. Choose on dev: then the test value is as likely too low as too high.</details>
