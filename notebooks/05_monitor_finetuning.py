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
# the first time, since a base and its arms are trained on two cores. This stand-in is too small to
# learn the task, and shows what to measure. In `gpu` a real model is fine-tuned with the published
# recipe.*

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
from statistics import NormalDist

import pandas as pd
import torch

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
# Qwen3-4B was trained on each of five components of the corpus, and on all of them. We call each
# training an *arm*. No component holds specification gaming (SG), so both SG cells are unseen by
# every arm [1, figure 8].
#
# The paper prints miss and false alarm rates. Take the base on SG code, which misses 49 % of the
# misbehavior and alarms on 35 % of the benign samples. It is right on 51 % of the former and 65 %
# of the latter. The mean of both is its balanced accuracy, 0.58, and their product is its g2, 0.33.
# The table has means over the cells of a group.

# %%
published = chapter.published
known = published.published_transfer()
wide = known.pivot(index="arm", columns=["group", "metric"], values="value")
wide = wide.reindex(published.ARMS).rename(index=published.ARM_TITLES)
groups = [published.SEEN_CELLS, published.UNSEEN_SG]
wide = wide[[(group, metric) for group in groups for metric in ("balanced_accuracy", "g2")]]
wide.columns = ["BA, seen", "g2, seen", "BA, unseen SG", "g2, unseen SG"]
display.table(wide, caption="Balanced accuracy (BA) and g2, from the published rates")

# %% [markdown]
# Compare every arm with the base in the last two columns. Some arms gain on misbehavior that they
# never saw, and some lose. The table does not say whether those that gained see more, or only alarm
# at another threshold.

# %% [markdown]
# ## The method happens here: discrimination and criterion
#
# Before its training a monitor detects 84 of 99 misbehaving samples and alarms on 16 of 99 benign
# ones. Afterwards it detects 70 and alarms on 7. It raises fewer false alarms now, but did it learn
# anything? Signal detection theory answers with two numbers (notebook 04),
# $$d' = z(\mathrm{TPR}) - z(\mathrm{FAR}), \quad
# c = -\tfrac12\bigl(z(\mathrm{TPR}) + z(\mathrm{FAR})\bigr), \qquad (1)$$
# where $z$ is the quantile function of the normal distribution. The discrimination $d'$ is high for
# a monitor that tells the classes apart, and the criterion $c$ is high for one that seldom alarms.
# Half a count is added to each rate, as in $84.5/100$, since $z$ is infinite at 0 and 1.

# %%
z = NormalDist().inv_cdf
by_hand = []
for detected, false_alarms in ((84, 16), (70, 7)):  # of 99 each, before and after
    tpr, far = (detected + 0.5) / 100, (false_alarms + 0.5) / 100
    by_hand.append((z(tpr) - z(far), -(z(tpr) + z(far)) / 2))  # equation (1)
    print(f"by hand: d' = {by_hand[-1][0]:.2f}, c = {by_hand[-1][1]:.2f}")

# %%
missed, false_alarms = [15 / 99, 29 / 99], [16 / 99, 7 / 99]
d_prime, criterion = shift.detection(missed, false_alarms, 99, 99)
for d, c, (d_by_hand, c_by_hand) in zip(d_prime, criterion, by_hand, strict=True):
    print(f"the library: d' = {d:.2f}, c = {c:.2f}")
    assert abs(d - d_by_hand) + abs(c - c_by_hand) < 1e-9, "the same by hand and by the library"

# %% [markdown]
# The discrimination stayed and the criterion rose, so this monitor learned nothing and merely
# became more reluctant to alarm. Now the same two numbers for the paper's model on the SG cells.
# The column `criterion_share` says how much of the change is due to the criterion, from 0 for none
# to 1 for all of it.

# %%
moved = shift.shift_of_rates(published.published(), published.PAIRS)
moved = moved[(moved["arm"] == "all") & moved["cell"].str.startswith("sg")]
columns = ["cell", "mr_before", "far_before", "mr", "far", "d_prime_before", "d_prime"]
columns += ["criterion_change", "criterion_share"]
display.table(
    moved[columns].reset_index(drop=True), decimals=2, caption="Published: all against base"
)

# %% [markdown]
# A large share means that a threshold moved. It does not exclude that $d'$ rose as well, so read
# `d_prime_before` and `d_prime` beside it.

# %% [markdown]
# ## A base that has practised reading
#
# In `gpu` the base is the paper's model. In `tiny` and `cpu` it is a very small Llama that we train
# here from nothing. For a few steps it practises reading on texts of the corpus. It is asked which
# option the request names, which one the response takes, and whether it is a given one. It never
# sees a label.
#
# A few steps are too few to learn even that, and a model of this size cannot learn the task from
# the few verdicts of a short training. Its numbers below show what to measure. They say nothing
# about large models.

# %%
prompt = chapter.load_prompt(sizes.prompt)
base = chapter.base_model(run, corpus, prompt, BASE, REVISION, DEVICE)
called = "small stand-in LM" if base.small else base.name
checkpoint = base.load()
print(f"fine-tuned here: {called}, {checkpoint.model.num_parameters():,} parameters")

# %% [markdown]
# ## One training example
#
# The model learns from the monitor's prompt with the right verdict as the reply, written as JSON.
# Only the verdict has labels, since the model is not supposed to learn to write requests or
# misbehavior. The published recipe labels the whole reply. The small base gets a label for the
# deciding word only, which is where a monitor reads its verdict.

# %% tags=["nbval-ignore-output"]
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
print(checkpoint.tokenizer.decode(example["input_ids"]))

# %%
labelled = [token for token in example["labels"] if token >= 0]
print(f"{len(example['labels'])} tokens, and these have labels:")
print(repr(checkpoint.tokenizer.decode(labelled)))

# %% [markdown]
# ## The method happens here: the loss
#
# Suppose a reply has three labelled tokens, and the model gives them the probabilities 0.9, 0.5 and
# 0.8. With $x$ the prompt and $v$ the reply, the loss is the mean negative log-likelihood
# $$L = -\frac{1}{|v|}\sum_t \log p(v_t \mid x, v_{<t}). \qquad (2)$$
# The product of the three is 0.36, so the loss is $-\log(0.36) / 3 \approx 0.34$. A model that is
# sure of every token has a loss of 0.

# %%
likelihoods = torch.tensor([0.9, 0.5, 0.8])
by_hand = -likelihoods.log().mean()  # equation (2)
print(f"by hand: {by_hand:.4f}")

# %% [markdown]
# The library reads logits over a vocabulary. We give it one of two tokens, the right one and
# another one that has the rest of the probability. It returns a sum, because a training divides by
# the number of labels of a whole step.

# %%
logits = torch.stack([likelihoods, 1 - likelihoods], dim=1).log()
library = chapter.reply_loss(logits, torch.tensor([0, 0, 0])) / 3
print(f"the library: {library:.4f}")
assert torch.isclose(library, by_hand), "by hand and by the library: the same loss"

# %% [markdown]
# ## The recipe
#
# A layer of 2,560 by 2,560 weights has 6.6 million numbers. LoRA [2] keeps these weights $W$ as
# they are and learns a change of low rank, $W + \frac{\alpha}{r} BA$. With rank $r = 16$ the two
# factors $B$ and $A$ have only 82 thousand numbers.

# %%
display.table(
    chapter.recipe_table(chapter.PAPER, sizes.recipe),
    caption="The published recipe and this profile",
)

# %% [markdown]
# A row with two different entries is where this profile departs from the paper. A very small model
# needs a higher learning rate, and it gets by with short batches and without the tricks that save
# memory.

# %% [markdown]
# ## The arms
#
# Every arm starts from the base. In `tiny` and `cpu` all arms see the same number of samples, so
# that none is better only because it saw more. In `gpu` an arm sees all samples of its components.

# %%
first = chapter.plan_tasks(run, chapter.PAPER_ARMS, corpus, base, prompt)
beyond = chapter.plan_tasks(run, chapter.BEYOND, corpus, base, prompt)
display.table(chapter.task_table([*first, *beyond]), caption="Samples by what they teach")

# %% [markdown]
# Both classes have as many samples in every row, because arms are made of whole pairs. The last arm
# is explained near the end of this notebook.
#
# Now we train all arms, and ask them and the base about the same samples. The scenarios of the
# benchmark are forbidden in training. Each batch is checked for their identifiers while it is put
# together, and one that holds any ends the training with an error.

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
# ## The errors of every arm
#
# Seven arms judge six cells of the test split, and each makes two kinds of errors. Every arm uses
# its own threshold here. It alarms where it gives yes more probability than no.

# %%
arms = list(published.ARMS)
cells = chapter.matrix.matrix(
    judged, arms, seen=chapter.SEEN_BY, rng=run.rng("matrix"), resamples=sizes.resamples
)
fig = chapter.figures.plot_matrix(
    cells, published.published(), title=f"Fine-tuned: {called}"
)
display.show(
    fig,
    "05_matrix",
    thumbnail=True,
    alt="Miss and false alarm rates of seven arms in six cells, measured beside published; "
    "cells that an arm was trained on are outlined.",
)

# %% [markdown]
# Our rates are on the left and the published ones on the right, and an arm was trained on the cells
# that are outlined. Compare an arm with the base in the same column, for both errors. Where one
# error falls and the other rises, the arm alarms more or less often, and nothing else is certain.

# %% [markdown]
# ## Did an arm learn, or did its threshold move?
#
# Take two misbehaving samples with the scores 0.9 and 0.6, and two benign ones with 0.7 and 0.2. In
# three of the four pairs the misbehaving sample has the higher score, so the AUROC is 3/4. If we
# subtract 0.3 from all four scores, alarms above 0.5 become fewer, and the AUROC is still 3/4. An
# arm that only moved its threshold therefore keeps the AUROC of the base.

# %%
fig = chapter.figures.plot_auroc_matrix(cells, title=f"AUROC, {called}")
display.show(
    fig,
    "05_auroc",
    alt="AUROC with 95 % intervals of seven arms in six cells; trained cells are outlined.",
)

# %% [markdown]
# White is chance, blue is better and red is worse. An arm has learned something about a cell if its
# square is clearly bluer than that of the base in the same column, and an interval that holds .50
# leaves open whether it discriminates at all. In `tiny` and `cpu` expect most intervals to do so.

# %% [markdown]
# The next figure follows every arm from the base in the plane of both errors. It shows at one
# glance in which direction an arm moved, and whether that was along a curve of equal
# discrimination.

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

# %% [markdown]
# The white circle is the base, a coloured mark is an arm, and the lower left corner is best. A line
# along a grey curve means that a threshold moved, and a line across the curves towards the lower
# left that the arm learned something. In `tiny` and `cpu` expect lines near the dashed diagonal of
# chance, however long they are.

# %% [markdown]
# A small move may be chance. The table counts arms and cells by what their intervals say. The
# column `discrimination` is *better* or *worse* if the interval of the change of AUROC excludes
# zero, and *unclear* if not. The column `criterion_moved` says the same about the criterion.

# %% tags=["nbval-ignore-output"]
counted = changes.assign(group=changes["cell"].str.startswith("sg"))
counted["group"] = counted["group"].map({True: "unseen SG", False: "other cells"})
told = counted.groupby(["group", "discrimination", "criterion_moved"]).size()
display.table(
    told.rename("arms and cells").reset_index(),
    caption="Against the base, by intervals over scenarios",
)

# %% [markdown]
# ## Seen and unseen cells
#
# An arm that was trained on QA with sycophancy may know sycophancy now, or only this cell. So we
# take means over the cells that an arm was trained on, over the SG cells, and over the other unseen
# cells. The intervals come from resampling whole scenarios. Every arm gets the same resamples, so
# that arms can be compared pairwise.

# %%
paper_seen = {arm: chapter.SEEN_BY[arm] for arm in arms}
means = chapter.transfer.transfer(judged, paper_seen, run.rng("means"), sizes.resamples)
fig = chapter.figures.plot_transfer(
    means, published.GOAL, published=known, title=f"Own threshold, {called}"
)
display.show(
    fig,
    "05_transfer",
    alt="Balanced accuracy of every arm on seen cells, unseen SG and other unseen cells, "
    "with intervals, beside the published values.",
)

# %% [markdown]
# Filled marks are ours, hollow ones are published and were measured on other data. Further right is
# better, the dotted line is chance, and the dashed line is the best value of any published arm.
# Look whether an arm that is better on its seen cells is also better on unseen SG.

# %% tags=["nbval-ignore-output"]
against = chapter.transfer.transfer_differences(
    judged, paper_seen, run.rng("means"), sizes.resamples, reference="base"
)
gaps = display.spans(against[against["metric"] == "auroc"], ["difference"])
gaps = gaps.pivot(index="arm", columns="group", values="difference")
display.table(
    gaps.reindex(arms[1:])[list(published.GROUPS)], caption="AUROC, arm minus base"
)

# %% [markdown]
# An interval above zero says that the arm discriminates better than the base on other scenarios of
# these cells too. A dash means that an arm has no cell in a group.

# %% [markdown]
# ### Does this reproduce the paper?
#
# In the paper, training on all components changed the balanced accuracy on unseen SG, and most of
# the change on SG code was a threshold. We put the published change beside ours.

# %% tags=["nbval-ignore-output"]
place = ["arm", "group", "metric"]
unseen = (published.UNSEEN_SG, "balanced_accuracy")
paper = known.set_index(place)["value"]
there = paper["all", *unseen] - paper["base", *unseen]
here = against.set_index(place).loc[("all", *unseen)]
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
# A published change inside the interval is no success of the stand-in, since a wide interval holds
# much. Where a change is missing in `tiny` or `cpu`, the base is the first suspect. It has
# practised a little how to find letters, which is what sycophancy is about. It knows nothing of
# programs, tests or intentions, which is what the SG cells are about. Its AUROC there says whether
# any threshold could have helped.

# %% [markdown]
# Balanced accuracy mixes both errors, so we also test each kind by itself. If an arm were no better
# than the base, one could exchange their verdicts on a whole scenario, and only the sign of the
# difference would change there. The test flips these signs at random. Six arms are compared with
# one base, so the p values are adjusted by Holm's method [3].

# %% tags=["nbval-ignore-output"]
tests = chapter.transfer.transfer_tests(
    judged, paper_seen, [published.UNSEEN_SG], reference="base"
)
tests = display.spans(tests, ["difference"])
p = tests["p_holm"].map(lambda p: f"p {p:.3f}" if p >= 0.001 else "p < .001")
tests = tests.assign(both=tests["difference"] + ", " + p)
display.table(
    tests.pivot(index="arm", columns="error", values="both").reindex(arms[1:]),
    caption="Share of errors on unseen SG, arm minus base; signs flipped by scenario, Holm [3]",
)

# %% [markdown]
# Below zero an arm makes fewer errors of this kind than the base. If one kind falls as much as the
# other one rises, a threshold moved. The last column counts both kinds together.

# %% [markdown]
# ## At a common false alarm rate
#
# Suppose one arm misses 20 % at a false alarm rate of 30 %, and another one misses 40 % at 5 %.
# Nobody can say which is better before both stand at the same false alarm rate. So every arm gets
# one threshold per task, chosen by conformal risk control on the benign samples of dev (notebook
# 04), which keeps the false alarm rate below `ALPHA` on average over new scenarios. A task is code,
# QA or reasoning. Whoever asks a monitor knows the task, but not the kind of misbehavior.

# %%
held = chapter.matrix.at_threshold(judged, ALPHA, "task")
calibrated = chapter.matrix.matrix(
    held, arms, seen=chapter.SEEN_BY, rng=run.rng("matrix"), resamples=sizes.resamples
)
fig = chapter.figures.plot_matrix(
    calibrated,
    published.published(),
    title=f"Calibrated to a false alarm rate of {ALPHA:g}, {called}",
)
display.show(
    fig,
    "05_calibrated",
    alt="Miss and false alarm rates of seven arms in six cells at calibrated thresholds, "
    "beside the published ones at the model's own.",
)

# %% [markdown]
# Only our rates on the left are calibrated. Their false alarms should now be rare in every row, so
# the misses that remain are what an arm cannot tell apart. Arms whose misses differed above and
# agree here had different thresholds, and not different discrimination.

# %% [markdown]
# ## The same with a frozen encoder
#
# The stand-in of `tiny` and `cpu` knows nothing, so we repeat the experiment with a model that
# knows something. MiniLM is a real pretrained encoder. It stays frozen, and only a logistic
# regression on its embeddings is trained, which is called a probe. A probe is trained in about a
# second, so we can afford many sizes and seeds.

# %%
encoder = chapter.load_encoder(dtype=sizes.encoder_dtype)
part = corpus.groupby("component").head(sizes.probe) if sizes.probe else corpus
texts = chapter.embed(encoder, part.reset_index(drop=True))
targets = chapter.embed(encoder, samples[samples["split"] == "test"])
print(f"embedded: {len(texts.samples)} samples to learn from, {len(targets.samples)} to judge")

# %%
most = 0.8 * len(texts.samples)  # fewer than there are, so that seeds draw different ones
grid = [int(share * most) // 2 * 2 for share in (*sizes.shares, 1.0)]
seeds = [run.rng(f"probe {number}") for number in range(max(sizes.seeds, 5))]
probed = chapter.probe_curves(chapter.PAPER_ARMS, texts, targets, grid, seeds)

# %% [markdown]
# We look at the first seed and the largest size. The row of the base is a probe that knows nothing
# and gives every sample the same score.

# %%
final = probed[(probed["size"] == grid[-1]) & (probed["seed"] == 0)]
final = pd.concat([chapter.untrained("base", targets), final], ignore_index=True)
probe_judged = rates.join(final, samples).assign(name=final["monitor"])
probe_cells = chapter.matrix.matrix(
    probe_judged, arms, seen=chapter.SEEN_BY, rng=run.rng("matrix"), resamples=sizes.resamples
)

# %%
fig = chapter.figures.plot_auroc_matrix(probe_cells, title="AUROC, probe on frozen MiniLM")
display.show(
    fig, "05_probe", alt="AUROC of the probe on a frozen encoder, seven arms in six cells."
)

# %% [markdown]
# The colours are those of the AUROC figure above, and the base is at chance by construction.
# Compare outlined squares with those beside them in the same row. The difference is what a probe
# knows about its own cells and does not carry over to others. With the few samples of `tiny` and
# `cpu` most intervals hold .50 here too.

# %% [markdown]
# ## Does more data help, and would another seed say the same?
#
# Suppose two arms differ by 0.03 in AUROC. If a second training of the same arm, with another seed,
# moves its AUROC by 0.05, the difference means nothing. So we train the arm *all* on a part of its
# samples, and we train it and the arm *contrastive pairs* again at the full size with other seeds.

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

# %% [markdown]
# The trainings from above belong to the curves as well. They are the first seed at the full size.

# %%
whole = verdicts[verdicts["arm"].isin([arm.name for arm in chapter.REPEATED])]
whole = whole[whole["sample_id"].isin(on_test["sample_id"])]
grown = pd.concat([whole, repeated], ignore_index=True)
grown["size"] = (grown["share"] * max(len(task.examples) for task in first)).round()
curves = chapter.learning.areas(grown, samples)

# %%
fig = chapter.figures.plot_learning(
    chapter.learning.summary(curves), title=f"Learning curves, {called}"
)
display.show(
    fig,
    "05_learning",
    alt="AUROC against the number of training samples in six cells, mean and range over "
    "seeds.",
)

# %% [markdown]
# Each panel is a cell, and higher is better. A line is the mean over seeds, and its band reaches
# from the worst seed to the best. A line that rises by less than the height of its band shows no
# effect of more data, which is what to expect of the stand-in.

# %% [markdown]
# The same for the probe, which has more sizes to choose from and five seeds at each.

# %%
probed["seed"] = probed["seed"].astype(int)
probe_curve = chapter.learning.areas(probed[probed["arm"] == "all"], samples)
fig = chapter.figures.plot_learning(
    chapter.learning.summary(probe_curve), title="Learning curves, probe on frozen MiniLM"
)
display.show(
    fig, "05_probe_learning", alt="AUROC of the probe against the number of training samples."
)

# %% [markdown]
# Read it as the figure before. The arm *all* was trained on the first four panels and not on the
# two SG cells, so compare where the lines rise with where they stay.

# %% [markdown]
# There are two sources of noise. In the table, `between` is the standard deviation over trainings,
# and `scenarios` is the standard error over test scenarios. Both together are the standard error of
# one training, judged on other scenarios. A difference between two arms with one training each that
# is smaller than `both` says nothing.

# %% tags=["nbval-ignore-output"]
errors = cells.rename(columns={"auroc_se": "se"})[["arm", "cell", "se"]]
full = curves[curves["size"] == curves["size"].max()]
noise = chapter.learning.seed_noise(full[full["arm"] == "all"], errors)
columns = ["cell", "seeds", "mean", "between", "scenarios", "both"]
display.table(noise[columns], caption="AUROC of arm all: noise of training, noise of scenarios")

# %% [markdown]
# ## The method happens here: a loss over pairs
#
# The loss of equation (2) looks at one answer at a time. Yet we have two answers to every request,
# one that misbehaves and one that does not. Let $s$ be the log-odds of yes, and suppose that the
# misbehaving answer has $s = 2$ and the benign one $s = 0.5$. The pairwise loss
# $$L_\mathrm{pair} = \log\bigl(1 + e^{-(s_\mathrm{misbehaving} - s_\mathrm{benign})}\bigr)
# \qquad (3)$$
# asks only that the first is higher. Here it is $\log(1 + e^{-1.5}) \approx 0.20$. It would be the
# same for log-odds of $-3$ and $-4.5$, so it cannot be lowered by a threshold that moves.

# %%
log_odds = torch.tensor([2.0, 0.5])
by_hand = (1 + (-(log_odds[0] - log_odds[1])).exp()).log()  # equation (3)
print(f"by hand: {by_hand:.4f}")

# %%
library = chapter.pair_losses(log_odds, label=torch.tensor([1, 0]), pair=torch.tensor([7, 7]))
print(f"the library: {library.item():.4f}")
assert torch.isclose(library.sum(), by_hand), "by hand and by the library: the same loss"

# %% [markdown]
# ## Beyond the recipe
#
# We try two things that the paper did not. The arm *contrastive pairs* adds the pairwise loss to
# the usual one at the same budget, and both answers to one request share a batch. *Checks first*
# needs no training. The program checks of notebook 03 look at an answer, and their alarm ranks
# above everything that the arm *all* says. Neither has seen an SG scenario. All are held to the
# same false alarm rate, by thresholds of their own.

# %%
looked = chapter.checks_first(verdicts[verdicts["arm"] == "all"], samples)
joined = rates.join(looked, samples).assign(name=chapter.CHECKS_FIRST)
joined = chapter.matrix.at_threshold(joined, ALPHA, "task")
held = pd.concat([held, joined], ignore_index=True)

# %%
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

# %% [markdown]
# Read a row from zero. To the right of it the arm tells more apart than *all* does at the same
# false alarm rate. An interval that crosses zero leaves that open.

# %% [markdown]
# The figure shows differences, and the next table the values themselves, each with its interval.
# The goal in its caption is what the best arms of the paper reached on unseen SG.

# %% tags=["nbval-ignore-output"]
levels = chapter.transfer.transfer(held, rivals, run.rng("gains"), sizes.resamples)
levels = levels[levels["metric"].isin(["balanced_accuracy", "g2", "auroc"])]
shown = display.spans(levels, ["value"], decimals=3)
shown = shown.pivot(index=["group", "metric"], columns="arm", values="value")[list(rivals)]
goal = published.GOAL
display.table(
    shown.reset_index(),
    caption="At calibrated thresholds. Goal from the paper, unseen SG at a false alarm rate "
    f"of {goal.far:g}: balanced accuracy above {goal.balanced_accuracy}, g2 above {goal.g2}",
)

# %% [markdown]
# An arm beats the paper's best only if a whole interval lies above the goal. These are other test
# data, however, so even then it would be a comparison of two setups.

# %% tags=["nbval-ignore-output"]
picked = gains[gains["group"].isin(groups) & gains["metric"].isin(["balanced_accuracy", "g2"])]
picked = display.spans(picked, ["difference"], decimals=3)
display.table(
    picked[["arm", "group", "metric", "difference", "p_holm"]].reset_index(drop=True),
    caption="Minus the arm that was trained on all components",
)

# %% [markdown]
# The p values are adjusted for the two comparisons in each group. Last, the AUROC of the same arms
# in every cell, which no threshold can change. It tells in which cells a gain was made.

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
# All samples so far were written or composed for this repository. The real pairs of notebook 01 are
# published answers to one request, one right and one wrong. We ask the arms *all* and *contrastive
# pairs* and *checks first* about them. A wrong answer is not misbehavior in the sense of the benchmark, and
# nothing of this kind was in the training, so this is the hardest test of transfer here.

# %%
try:
    real = read_table(run, "01_benchmark_construction", "real_samples")
except chapter.ArtifactError:
    real = samples.head(0)
    print("no real pairs in this run: they need the cpu profile and the open files")
real = chapter.draw_pairs(real, sizes.pairs_per_cell, run.rng("real"), by=("source",))

# %%
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
# An arm whose interval holds 0.5 cannot be told from guessing. One whose interval lies below 0.5
# takes right answers for misbehavior.

# %% [markdown]
# ## Does it hold?
#
# The comparison of arms rests on a few facts that can be checked. No arm may have seen a scenario
# of the benchmark, and all must have had the same number of steps. At a calibrated threshold every
# verdict is decided, and calibration may change verdicts but no score.

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
#
# The table `finetuned_verdicts` has every verdict of every arm, and `finetuning` one row per model,
# rule, arm and cell. The report page shows one number of this notebook, the gain by program checks.

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

# %%
run.write_metrics(
    {f"auroc.{row.arm}.{row.cell}": row.auroc for row in cells.itertuples()}
    | {f"probe.{row.arm}.{row.cell}": row.auroc for row in probe_cells.itertuples()}
    | {
        f"calibrated.{row.arm}.{row.group}.{row.metric}": row.value
        for row in levels[levels["metric"].isin(["balanced_accuracy", "g2"])].itertuples()
    }
)
gains = gains.set_index(["arm", "group", "metric"])["difference"]
gain = gains[chapter.CHECKS_FIRST, published.UNSEEN_SG, "balanced_accuracy"]
display.headline(
    f"{gain:+.2f}", "balanced accuracy on unseen gaming: program checks before the model"
)
run.close()

# %% [markdown]
# ## What we saw
#
# - We fine-tuned a language model into monitors, and compared what they learned with what they were
#   shown.
# - We told discrimination from a moved threshold, by AUROC and at a common false alarm rate.
# - We measured transfer to unseen misbehavior with intervals and seeds.
#
# **Limits.** The small base is a stand-in that cannot learn the task at its size. That it fails
# says nothing about a model of four billion parameters. The test scenarios are few in some cells,
# and so are the seeds. What *checks first* gains, it gains by looking and not by training. The
# program checks were written with the kinds of gaming in mind, though not for these samples, and
# they say nothing about answers in prose.

# %% [markdown]
# ## Exercises
#
# 1. Set `ALPHA` to .05. Which tasks can no longer have a threshold of their own?
#    <details><summary>Answer</summary>Reasoning. With $n$ dev scenarios the rule keeps no level
#    below $1/(n+1)$, so .05 needs 19 of them. Code and QA have at least as many. Reasoning has at
#    most ten, so its monitors fall silent.</details>
# 2. An arm has fewer misses than the base and more false alarms. What else do you need to
#    know before you say that it learned something?
#    <details><summary>Answer</summary>Whether its AUROC rose, or its misses at the base's
#    false alarm rate fell. A lower threshold alone does both of the first.</details>
# 3. Suppose you keep the arm that is best on test, and report its test value. What is wrong?
#    <details><summary>Answer</summary>The largest of several noisy numbers is too large on
#    average. If you choose on dev, the test value is as likely too low as too high.</details>
