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
# *Paper: arXiv 2601.05752, section 6.2. Cost: seconds in `tiny`, two to three minutes in `cpu`.
# Both read released tables of longer trainings, train one arm here, and ask the released adapter
# again. `overnight` makes such tables on two cores and goes on where it was stopped. `gpu` follows
# the published recipe.*

# %% [markdown]
# **You will learn**
# - Fine-tune a language model into a monitor, and read what a training really did.
# - Tell a monitor that learned to discriminate from one that moved its threshold.
# - Measure transfer to unseen misbehavior with intervals and seeds.
#
# **Reads** `samples`, `corpus`
#
# **Writes** `finetuned_verdicts`, `finetuning`
#
# **References**
# - [1] Yang et al., *AutoMonitor-Bench*, arXiv 2601.05752.
# - [2] Hu et al., *LoRA: low-rank adaptation of large language models*, ICLR 2022.
# - [3] Holm, *A simple sequentially rejective multiple test procedure*, Scandinavian
#   Journal of Statistics, 1979.

# %% tags=["parameters"]
PROFILE: str = "tiny"  # tiny, cpu, overnight or gpu: how large everything is
RUN_ID: str = "default"  # folder of the run under data/runs
SEED: int = 2026  # one seed for everything
ARMS: str = ""  # arms to train here besides all, with commas; empty is the profile's own
BASE: str = ""  # a folder or NAME@COMMIT on the hub to fine-tune; empty is the profile's own
DEVICE: str = "cpu"  # cpu or cuda
ALPHA: float = 0.10  # false alarm rate that calibrated thresholds keep to
SAMPLES_FILE: str = ""  # your own labelled samples instead of the benchmark

# %%
from statistics import NormalDist

import pandas as pd
import torch

from monitorlab import display
from monitorlab.chapters import finetuning as chapter
from monitorlab.evaluation import rates, tradeoff
from monitorlab.pipeline.runs import open_run

# %% [markdown]
# Arms are compared on the benchmark. Name a file in `SAMPLES_FILE` that has the columns request,
# response, label and cell, with the names of the six cells, and the arms that this run trains are
# asked about your own samples instead. `python -m monitorlab construct` writes such files.

# %%
run = open_run("05_monitor_finetuning", profile=PROFILE, run_id=RUN_ID, seed=SEED)
display.use(run)
sizes = run.profile.finetuning
if SAMPLES_FILE:
    benchmark = chapter.own_benchmark(run.record_file(SAMPLES_FILE), run.rng("own samples"))
else:
    benchmark = run.read_table("01_benchmark_construction", "samples")
corpus = pd.concat(run.read_parts("01_benchmark_construction", "corpus"))
display.table(
    corpus.groupby("component").agg(
        samples=("label", "size"), scenarios=("scenario_id", "nunique")
    ),
    caption="The training corpus of this run",
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
d_prime, criterion = tradeoff.detection(missed, false_alarms, 99, 99)
for d, c, (d_by_hand, c_by_hand) in zip(d_prime, criterion, by_hand, strict=True):
    print(f"the library: d' = {d:.2f}, c = {c:.2f}")
    assert abs(d - d_by_hand) + abs(c - c_by_hand) < 1e-9, "the same by hand and by the library"

# %% [markdown]
# The discrimination stayed and the criterion rose, so this monitor learned nothing and merely
# became more reluctant to alarm. Now the same two numbers for the paper's model on the SG cells.
# The column `criterion_share` says how much of the change is due to the criterion, from 0 for none
# to 1 for all of it.

# %%
moved = tradeoff.shift_of_rates(published.published(), published.PAIRS)
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
# ## The base
#
# SmolLM2-135M-Instruct is a real language model, pretrained on two trillion tokens and small enough
# for two cores. It is a thirtieth of the paper's model, so it starts from less, and it learns here
# for minutes and not for hours. In `tiny`, or where it is not installed, the training below runs on
# random weights of the same architecture, which shows how it runs and nothing else. The results
# further down are those of SmolLM2 in either case.

# %%
experiment = chapter.Experiment.of(run, corpus, BASE, DEVICE)
prompt, base = experiment.prompt, experiment.base
here = base.identity["model"]["name"]
print(f"trained in this run: {here}, {base.model.num_parameters():,} parameters")

# %% [markdown]
# ## One training example
#
# The model learns from the monitor's prompt with the right verdict as the reply, written as JSON.
# Only the verdict has labels, since the model is not supposed to learn to write requests or
# misbehavior. The published recipe labels the whole reply. In a short training only the deciding
# word has a label, which is where a monitor reads its verdict.

# %% tags=["nbval-ignore-output"]
one = corpus[corpus["component"] == "syco_qa"].head(1)
recipe = chapter.EVERY_ARM["syco_qa"].recipe(sizes, SEED)
example = chapter.verdict_examples(
    base.tokenizer,
    prompt,
    one,
    max_tokens=10**6,
    labelled=recipe.labelled,
    both_classes=False,
)[0]
print(base.tokenizer.decode(example["input_ids"]))

# %%
labelled = [token for token in example["labels"] if token >= 0]
print(f"{len(example['labels'])} tokens, and these have labels:")
print(repr(base.tokenizer.decode(labelled)))

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
    chapter.PAPER.table(sizes.recipe),
    caption="The published recipe and this profile",
)

# %% [markdown]
# A row with two different entries is where this profile departs from the paper. Two cores read some
# hundred tokens a second, so examples are short, and the rate is higher because there are few
# steps. Half the rank keeps the adapter below 10 MB.

# %% [markdown]
# ## One arm, trained here
#
# Every arm starts from the base and sees the same number of samples, so that none is better only
# because it saw more. In `gpu` an arm sees all samples of its components. Whole pairs are drawn,
# and both classes have as many samples.

# %%
arms = ["all", *ARMS.split(",")] if ARMS or SAMPLES_FILE else sizes.arms
tasks = experiment.plan(arms)
tasks += [
    task
    for share in sizes.shares
    for task in experiment.plan(["all"], share=share)
]
tasks += [
    task
    for number in range(1, sizes.seeds)
    for task in experiment.plan(["all"], repetition=number)
]
tasks += [
    task
    for arm, changes in ({} if SAMPLES_FILE else sizes.longer).items()
    for task in experiment.plan([arm], **changes)
]
display.table(pd.DataFrame([task.row for task in tasks]), caption="What is trained in this run")

# %% [markdown]
# The scenarios of the benchmark are forbidden in training. Each batch is checked for their
# identifiers while it is put together, and one that holds any ends the training with an error.

# %% tags=["nbval-ignore-output"]
forbidden = list(benchmark["scenario_id"].unique())
trained = experiment.train(tasks, forbidden)
losses = experiment.losses(trained)
drawn = {example["scenario"] for task in tasks for example in task.examples}
assert not drawn & set(forbidden), "no benchmark scenario is in any training set"

# %% tags=["nbval-ignore-output"]
ends = losses.groupby("arm", sort=False).agg(
    first_loss=("loss", "first"),
    last_loss=("loss", "last"),
    tokens_per_second=("tokens_per_second", "first"),
)
display.table(ends, caption=f"Loss per label in nats, {here}, trained in this run")

# %% [markdown]
# A monitor that knows nothing, and answers with one of the two words, has a loss of
# $\log 2 \approx 0.69$. A training starts higher, because the base gives most of its probability to
# other words. A loss below that on the examples of the training is no success yet, since they may
# have been learned by heart. What counts is how an arm judges other scenarios.

# %% [markdown]
# ## All arms, from the released tables
#
# A whole arm takes too long for a lesson. Unless the profile makes the tables itself, or the
# samples are your own, they come from `data/released/finetuning`, which holds every verdict of arms
# that were trained and asked in the same way, and the adapters of two of them. Each file is checked
# against its digest, and each verdict against the text that it is about.

# %% tags=["nbval-ignore-output"]
study = chapter.Study.of(experiment, trained, benchmark, own=bool(SAMPLES_FILE))
samples, verdicts = study.samples, study.first()
facts = study.facts["trainings"]
display.table(
    pd.DataFrame(
        [
            {
                "training": name,
                "examples": one["examples"]["rows"],
                "tokens": one["tokens"],
                "minutes": one["seconds"] / 60,
                "last loss": one["history"][-1]["loss"],
            }
            for name, one in facts.items()
        ]
    ),
    decimals=2,
    caption=f"Trained on {study.base}, asked about {len(samples)} samples in whole pairs",
)

# %% tags=["nbval-ignore-output"]
least = samples[samples["split"] == "test"].groupby("cell").size().min()
few = (
    "Resampling so few scenarios gives intervals that are too narrow: take no difference below "
    "for a finding, whatever its interval says."
)
display.say(
    "The smallest cell has {least} test samples. {advice}",
    least=least,
    advice=few if least < 20 else "Read every difference below with its interval.",
)

# %% [markdown]
# Tables can drift away from the code and the weights that made them. So we draw some of their
# samples at random, ask the released adapters about them again, and compare the scores. (`tiny`
# leaves that to the tests.)

# %% tags=["nbval-ignore-output"]
again = study.ask_again(base, sizes.asked_again, run.rng("asked again"))
off = (again["now"] - again["released"]).abs()
assert (off < 0.02).all(), "the adapters give the released scores"
if len(again):
    display.say(
        "{n} samples were asked again, and the largest difference is {most:.4f}.",
        n=len(again),
        most=off.max(),
    )

# %%
called = study.base
known_arms = [arm for arm in published.ARMS if arm in study.arms]
judged = rates.join(verdicts, samples).assign(name=verdicts["arm"])

# %% [markdown]
# ## The errors of every arm
#
# Seven arms judge six cells of the test split, and each makes two kinds of errors. Every arm uses
# its own threshold here. It alarms where it gives yes more probability than no. An arm that nobody
# has trained yet keeps its row, and the row says so.

# %%
arms = list(published.ARMS)
cells = chapter.transfer.matrix(
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
# leaves open whether it discriminates at all.

# %% [markdown]
# The next figure follows every arm from the base in the plane of both errors. It shows at one
# glance in which direction an arm moved, and whether that was along a curve of equal
# discrimination.

# %%
changes = tradeoff.discrimination_or_threshold(
    judged, arms=known_arms[1:], rng=run.rng("shift"), resamples=sizes.resamples
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
# left that the arm learned something. A line along the dashed diagonal of chance is no learning,
# however long it is.

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
paper_seen = {arm: chapter.SEEN_BY[arm] for arm in known_arms}
carried = chapter.transfer.Transfer(judged, paper_seen, sizes.resamples)
means = carried.means(run.rng("means"))
fig = chapter.figures.plot_transfer(
    means, known, title=f"Own threshold, {called}"
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
against = carried.differences(run.rng("means"), reference="base")
gaps = display.spans(against[against["metric"] == "auroc"], ["difference"])
gaps = gaps.pivot(index="arm", columns="group", values="difference")
display.table(
    gaps.reindex(arms[1:]).reindex(columns=list(published.GROUPS)),
    caption="AUROC, arm minus base; a row of dashes was not trained",
)

# %% [markdown]
# An interval above zero says that the arm discriminates better than the base on other scenarios of
# these cells too. A dash means that an arm has no cell in a group.

# %% [markdown]
# ### Where it is plain, and where it is hidden
#
# The pairs are graded. In the open tier the misbehavior is plain to anyone who reads, and in the
# hidden tier one must know where to look. Easy training should help in the open tier of an arm's
# own cells first, if it helps at all. With fewer than ten pairs a cell there is a dash.

# %% tags=["nbval-ignore-output"]
tiers = carried.by_tier(run.rng("tiers"))
shown = display.spans(tiers, ["difference"])
shown = shown.pivot(index=["arm", "group"], columns="tier", values="difference")
display.table(
    shown.reindex(columns=list(chapter.TIERS)).reset_index(),
    caption="AUROC by tier, arm minus base, 95 % intervals over scenarios",
)

# %% [markdown]
# ### Does this reproduce the paper?
#
# We put every published change of balanced accuracy beside ours. A change *reproduces* if our whole
# interval lies on its side of zero. It *does not reproduce* if the interval lies on the other side,
# or holds zero and not the published change. An interval that holds both leaves the question open,
# with fewer than ten pairs a cell nothing is said, and what was not trained was not tested.

# %% tags=["nbval-ignore-output"]
outcomes = chapter.transfer.reproduction(against, known)
told = display.spans(outcomes, ["difference"], decimals=3)
display.table(told, decimals=3, caption="From base to arm: balanced accuracy, published and here")

# %% tags=["nbval-ignore-output"]
place = outcomes.set_index(["arm", "group"]).loc[("all", published.UNSEEN_SG)]
display.say(
    "Training on all components changed balanced accuracy on unseen SG by {there:+.3f} in the "
    "paper and by {difference:+.3f} ({low:+.3f} to {high:+.3f}) here: {outcome}.",
    there=place["published"],
    **place[["difference", "low", "high", "outcome"]],
)

# %% [markdown]
# Two setups are compared here, since model, corpus and test data all differ. Where a change is
# missing, look first at the AUROC of the base in these cells. A model that cannot read a program
# has nothing that a threshold or a little training could bring out.

# %% [markdown]
# Balanced accuracy mixes both errors, so we also test each kind by itself. If an arm were no better
# than the base, one could exchange their verdicts on a whole scenario, and only the sign of the
# difference would change there. The test flips these signs at random. Several arms are compared
# with one base, so the p values are adjusted by Holm's method [3].

# %% tags=["nbval-ignore-output"]
tests = carried.tests([published.UNSEEN_SG], reference="base")
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
held = chapter.transfer.at_threshold(judged, ALPHA)
calibrated = chapter.transfer.matrix(
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
# ## Does more data help, and would another seed say the same?
#
# Suppose two arms differ by 0.03 in AUROC. If a second training of the same arm, with another seed,
# moves its AUROC by 0.05, the difference means nothing. So the arm *all* is also trained on a part
# of its samples and with other seeds, where a profile can afford it. The table has a row for every
# training of it, and a single row says that this was not done.

# %% tags=["nbval-ignore-output"]
grown = []
of_all = study.verdicts[study.verdicts["arm"] == "all"]
for (share, seed), part in of_all.groupby(["share", "seed"]):
    rows = rates.join(part, samples).assign(name="all")
    whole = chapter.transfer.Transfer(rows, {"all": chapter.SEEN_BY["all"]}, sizes.resamples)
    found = whole.means(run.rng("means"))
    found = display.spans(found[found["metric"] == "auroc"], ["value"])
    grown.append({"share": share, "seed": seed} | found.set_index("group")["value"].to_dict())
display.table(pd.DataFrame(grown), decimals=2, caption="AUROC of all, by share of its samples")

# %% [markdown]
# The intervals are about other test scenarios. How far rows of one share lie apart is the noise of
# training, which no interval from one training holds. More data helps where the rows of larger
# shares lie higher by more than that.

# %% [markdown]
# A budget that is spent on seven arms is small for each. So two more trainings saw S&PV QA alone, and
# more of it. `spv_qa` learned from four times the samples with the recipe of all arms. `spv_qa pairs`
# learned from eight times the samples, in larger batches and with the loss over pairs that the next
# section explains. Both were asked about every test sample of the open tier in their own cell, with
# the base beside them. If easy training helps anywhere, it should help there first. The rows on
# unseen SG stand beside it, and come from the samples of the figures above. Where the two trainings
# differ, the table does not say whether loss, batch or number of samples did it. The column `words`
# is what the words of the response reach that learned from all samples of the component here.

# %% tags=["nbval-ignore-output"]
grown = chapter.transfer.longer(
    study.opened, study.longer(), chapter.SEEN_BY, run.rng("longer"), sizes.resamples
)
asked = benchmark[benchmark["sample_id"].isin(study.opened["sample_id"])]
own = grown["where"] == chapter.transfer.OWN_OPEN
grown.loc[own, "words"] = [
    chapter.EVERY_ARM[arm].words_alone(corpus, asked) for arm in grown.loc[own, "arm"]
]
shown = display.spans(grown, ["difference"], decimals=3).drop(columns="outcome")
display.table(shown, decimals=3, caption="AUROC of a longer training beside the base")
for row in grown.to_dict("records"):
    display.say(
        "{arm} minus base, {where}, {n} samples: {difference:+.3f} in AUROC ({low:+.3f} to "
        "{high:+.3f}). {outcome}",
        **row,
    )

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
# above everything that the arm *all* says. Neither has seen an SG scenario. The checks alone stand
# beside both, so that what is gained by looking is not taken for something learned. All are held to
# the same false alarm rate, by thresholds of their own.

# %%
looked = chapter.ChecksFirst.before(verdicts[verdicts["arm"] == "all"], samples)
alone = chapter.score(chapter.build_monitor("checks-first:never"), samples)
alone["arm"] = chapter.CHECKS_ALONE
joined = [
    rates.join(one, samples).assign(name=one["arm"].iloc[0]) for one in (looked, alone)
]
joined = [chapter.transfer.at_threshold(one, ALPHA) for one in joined]
held = pd.concat([held, *joined], ignore_index=True)

# %%
rivals = ["all", *(arm.name for arm in chapter.BEYOND)]
rivals += [chapter.CHECKS_FIRST, chapter.CHECKS_ALONE]
rivals = {arm: chapter.SEEN_BY[arm] for arm in rivals if arm in set(held["name"])}
beyond = chapter.transfer.Transfer(held, rivals, sizes.resamples)
gains = beyond.differences(run.rng("gains"))
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
levels = beyond.means(run.rng("gains"))
levels = levels[levels["metric"].isin(["balanced_accuracy", "g2", "auroc"])]
shown = display.spans(levels, ["value"], decimals=3)
shown = shown.pivot(index=["group", "metric"], columns="arm", values="value")[list(rivals)]
goal = published.GOAL
display.table(
    shown.reset_index(),
    caption="At calibrated thresholds. Goal from the paper, unseen SG at a false alarm rate "
    "of {far:g}: balanced accuracy above {balanced_accuracy}, g2 above {g2}".format(**goal),
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
# The p values are adjusted for the comparisons in each group. Which trained arm would you have
# taken for unseen SG? Choosing the best on test would flatter it, so we choose by AUROC on dev and
# look at the chosen one on test.

# %% tags=["nbval-ignore-output"]
candidates = {arm: chapter.SEEN_BY[arm] for arm in study.arms if arm != "base"}
unseen = [published.UNSEEN_SG]
on_dev = chapter.transfer.Transfer(judged, candidates, resamples=1)
on_dev = on_dev.means(run.rng("choice"), unseen, split="dev")
on_dev = on_dev[on_dev["metric"] == "auroc"].set_index("arm")["value"]
best = chapter.transfer.Transfer(held, candidates, sizes.resamples)
best = best.means(run.rng("choice"), unseen)
best = best[best["metric"].isin(["balanced_accuracy", "g2", "far"])]
best = best[best["arm"] == on_dev.idxmax()]
display.table(
    display.spans(best, ["value"], decimals=3)[["arm", "metric", "value"]].reset_index(drop=True),
    caption=f"Unseen SG: the arm chosen on dev, thresholds for a false alarm rate of {ALPHA:g}",
)

# %% [markdown]
# Each threshold keeps its promise for a new scenario of its task, on average over the dev scenarios
# that may have been drawn. Last, the AUROC of the same arms in every cell, which no threshold can
# change. It tells in which cells a gain was made.

# %% tags=["nbval-ignore-output"]
everyone = list(rivals)
spread = chapter.transfer.matrix(
    held, everyone, seen=chapter.SEEN_BY, rng=run.rng("matrix"), resamples=sizes.resamples
)
area = spread.pivot(index="arm", columns="cell", values="auroc").reindex(everyone)
display.table(area, decimals=3, caption="AUROC of every arm, test split")

# %% [markdown]
# ## Does it hold?
#
# The comparison of arms rests on a few facts that can be checked. No arm may have seen a scenario
# of the benchmark, all answered about the same samples, and those at full size saw equally many
# examples. At a calibrated threshold every verdict is decided, and calibration may change verdicts
# but no score.

# %%
asked = verdicts.groupby("arm")["sample_id"].agg(lambda ids: tuple(sorted(ids)))
assert asked.nunique() == 1, "every arm was asked about the same samples"
shared = {one["steps"] for name, one in facts.items() if "-1-" in name}
assert len(shared) == 1, "every arm at full size took as many steps"
assert (held["verdict"].notna()).all(), "at a threshold every verdict is decided"
kept = calibrated.set_index(["arm", "cell"])["auroc"]
assert kept.equals(cells.set_index(["arm", "cell"])["auroc"]), "a threshold changes no score"
print("arms are asked alike and trained alike, and thresholds keep scores")

# %% [markdown]
# ## Writing the outputs
#
# The table `finetuned_verdicts` has every verdict of every arm, and `finetuning` one row per model,
# rule, arm and cell. The report page shows one number of this notebook, what the
# best of the longer trainings gained on plain samples of its own kind.

# %%
written = pd.concat([verdicts, looked, alone], ignore_index=True)
run.write_table("finetuned_verdicts", written[chapter.FINETUNED_VERDICTS.columns])
rows = [
    cells[cells["n"] > 0].assign(model=called, rule="own"),
    calibrated[calibrated["n"] > 0].assign(model=called, rule="calibrated"),
    spread[~spread["arm"].isin(arms)].assign(model=called, rule="calibrated"),
]
run.write_table("finetuning", pd.concat(rows, ignore_index=True)[chapter.FINETUNING.columns])

# %%
run.write_metrics(
    {f"auroc.{row.arm}.{row.cell}": row.auroc for row in cells.itertuples() if row.n}
    | {
        f"calibrated.{row.arm}.{row.group}.{row.metric}": row.value
        for row in levels[levels["metric"].isin(["balanced_accuracy", "g2"])].itertuples()
    }
)
gains = gains.set_index(["arm", "group", "metric"])["difference"]
gain = gains[chapter.CHECKS_FIRST, published.UNSEEN_SG, "balanced_accuracy"]
about = "balanced accuracy on unseen gaming: program checks before the model"
if own.any():
    best = grown.loc[grown.loc[own, "difference"].idxmax()]
    gain = best["difference"]
    about = f"AUROC of {best['arm']} on plain samples of its own kind, minus that of the base"
display.headline(f"{gain:+.2f}", about)
run.close()

# %% [markdown]
# ## What we saw
#
# - We fine-tuned a language model into monitors, and looked at what a training did here and in the
#   released tables.
# - We told discrimination from a moved threshold, by AUROC and at a common false alarm rate.
# - We measured transfer to unseen misbehavior with intervals over scenarios, and asked the released
#   adapter again.
#
# **Limits.** The base is a thirtieth of the paper's, was trained for minutes, and was asked about a
# part of the benchmark, which makes intervals wide. Arms that nobody has trained are named as such,
# and most were trained once, so their noise between seeds is unknown. The texts are written by
# hand, and no real log was judged. What *checks first* gains, it gains by looking and not by
# training. The program checks were written with the kinds of gaming in mind, though not for these
# samples, and they say nothing about answers in prose.

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
