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
# # 4. Operating points
#
# > A verdict is a score cut at a threshold that somebody chose. Choose it on purpose, per
# > task, with a guarantee, and compare monitors at the same false alarm rate.
#
# *Paper: the open question of arXiv 2601.05752, answered with section 3 of arXiv
# 2607.02510. Cost: about twenty seconds in `tiny`, forty in `cpu`.*

# %% [markdown]
# **You will learn**
# - Read ROC and DET curves with their bands, and the detection rate at a false alarm rate
#   that you can afford.
# - Choose thresholds on a dev split that keep a promise for new scenarios, and check what
#   it costs and what the promise for single samples is worth.
# - Put a price on a caught misbehavior, for one monitor and for a cascade of two.
#
# **Reads** `samples`, `annotations`, `verdicts`, `judge_verdicts`, `real_transcripts`
#
# **Writes** `operating_points`
#
# **References**
# - [1] Yang et al., *AutoMonitor-Bench*, arXiv 2601.05752.
# - [2] Schirmer et al., *Online safety monitoring for LLMs*, arXiv 2607.02510.
# - [3] Angelopoulos et al., *Conformal risk control*, ICLR 2024.
# - [4] Martin et al., *The DET curve in assessment of detection task performance*, 1997.
# - [5] Rogan and Gladen, *Estimating prevalence from the results of a screening test*,
#   American Journal of Epidemiology, 1978.
# - [6] Bates et al., *Distribution-free, risk-controlling prediction sets*, Journal of the
#   ACM, 2021.

# %% tags=["parameters"]
PROFILE: str = "tiny"  # tiny, cpu or gpu: how large everything is
RUN_ID: str = "default"  # folder of the run under data/runs
SEED: int = 2026  # one seed for everything
ALPHA: float = 0.10  # target false alarm rate
DELTA: float = 0.10  # allowed probability that the stricter promise fails
BASE_RATE: float = 0.01  # share of misbehavior where a monitor is used
REVIEW_USD: float = 2.0  # price of a person's look at one alarm
CALL_USD: float = 0.02  # price of one verdict of an expensive judge

# %%
import numpy as np
import pandas as pd

from monitorlab import display
from monitorlab.benchmark.samples import halved
from monitorlab.evaluation import (
    cascades,
    cost,
    label_noise,
    rates,
    resplits,
    roc_bands,
)
from monitorlab.evaluation import operating_figures as figures
from monitorlab.evaluation import operating_points as points
from monitorlab.evaluation import tradeoff as decomposition
from monitorlab.monitors.rules import CORNERS
from monitorlab.pipeline.artifacts import open_run, read_table, write_table
from monitorlab.pipeline.tables import OPERATING_POINTS

# %%
run = open_run("04_operating_points", profile=PROFILE, run_id=RUN_ID, seed=SEED)
display.use(run)
sizes = run.profile.evaluation
samples = read_table(run, "01_benchmark_construction", "samples")
verdicts = read_table(run, "03_monitor_evaluation", "verdicts")
judged = rates.join(verdicts, samples)
whole = judged.groupby("name")["sample_id"].transform("size")
judged = judged[whole == whole.max()]  # monitors that judged all samples
scored = judged[judged["score"].notna() & ~judged["name"].isin(CORNERS)]
print(f"{scored['name'].nunique()} monitors with scores, {whole.max()} samples each")

# %% [markdown]
# ## Every threshold at once
#
# A monitor with a score is many monitors, one per threshold. The ROC curve shows them all;
# on the probit axes of the DET curve [4] normal scores become straight lines, and the
# corner that matters, few false alarms, gets room. Bands resample whole scenarios. A sample
# on which the verdict failed has no place on a curve; the table counts them.

# %% tags=["nbval-ignore-output"]
test = judged[judged["split"] == "test"]
seen = scored[scored["split"] == "test"]
names = sorted(judged["name"].unique())
counts = seen["name"].value_counts()
some = sorted(counts[counts > 0.9 * counts.max()].index)
table = roc_bands.curve_table(
    test[test["name"].isin(some)], run.rng("curves"), n=sizes.resamples
)
table = table.sort_values("auroc", ascending=False).reset_index(drop=True)
shown = display.spans(table, ["auroc", "pauroc", "tpr_01", "tpr_05", "tpr_10"])
display.table(
    shown[["name", "n_unscored", "auroc", "tpr_01", "tpr_05", "tpr_10"]],
    caption="Test split; detection rate at 1, 5 and 10 % false alarms; 95 % intervals over "
    "scenarios",
)

# %%
bands = {}
for name in table["name"]:
    part = seen[seen["name"] == name]
    band = roc_bands.roc_band(
        part["score"], part["label"], part["scenario_id"], run.rng(name), sizes.resamples
    )
    bands[name] = band.grid
fig = figures.plot_curves(bands, seen, names)
display.show(
    fig,
    "04_curves",
    thumbnail=True,
    alt="ROC curves with 95 percent bands and DET curves of the monitors that give "
    "scores, test split.",
)

# %% [markdown]
# On the left, up and to the left is better; a band that holds the dotted diagonal cannot be
# told from chance. On the right, down and to the left is better.

# %% [markdown]
# ## Does the trade-off persist?
#
# Over the 22 published monitors, fewer misses go with more false alarms [1]. Is that a law
# of monitoring, or do the monitors merely sit at different points of similar curves? Hold
# all of them to one false alarm rate, chosen on dev: if the points line up, only their
# thresholds differed. A failed verdict goes to a person, so it counts as an alarm here.

# %%
levels = (0.01, 0.05, ALPHA)
chosen = judged[judged["name"].isin(some)]
rules = points.tradeoff_at_own_threshold(chosen, levels)
fig = figures.plot_rules(rules, names)
display.show(
    fig,
    "04_rules",
    alt="Miss rate and false alarm rate at every monitor's own threshold, and at "
    "common false alarm levels with thresholds from the dev split.",
)

# %% [markdown]
# From the first panel to the others the monitors move onto one height. What is left of their
# spread from left to right is discrimination. A monitor at a miss rate of 1 has no threshold
# that keeps the level, or none above which anything misbehaves.

# %% [markdown]
# Signal detection theory splits a point into discrimination $d'$, which curve, and
# criterion $c$, where on it:
# $$d' = z(\mathrm{TPR}) - z(\mathrm{FAR}), \quad
# c = -\tfrac12\bigl(z(\mathrm{TPR}) + z(\mathrm{FAR})\bigr).$$
# From the two definitions follows
# $$\mathrm{Cov}\bigl(z(\mathrm{MR}), z(\mathrm{FAR})\bigr) =
# \tfrac14\mathrm{Var}(d') - \mathrm{Var}(c).$$
# So a trade-off over monitors appears exactly when criteria vary by more than half as much
# as discrimination. It is a statement about how the monitors were tuned, and a share of
# variation says nothing about how much discrimination there is: the range of $d'$ stands
# beside it.

# %% tags=["nbval-ignore-output"]
split = decomposition.decompose(chosen[chosen["split"] == "test"])
display.say(
    "Standard deviation of c: {c:.2f}, half that of d': {d:.2f}. Share of the "
    "variation along the curve: {share:.0%}, while d' runs from {least:.2f} to {most:.2f}. "
    "Correlation of MR and FAR: {r:.2f}.",
    c=split.var_c**0.5,
    d=split.var_d**0.5 / 2,
    share=split.criterion_share,
    least=split.monitors["d_prime"].min(),
    most=split.monitors["d_prime"].max(),
    r=split.r,
)
columns = ["name", "auroc", "alarm_rate", "mr", "far", "d_prime", "criterion"]
display.table(split.monitors[columns], decimals=2)

# %% [markdown]
# ## A threshold with a promise
#
# What is a threshold from dev worth on new data? It depends on what is exchangeable. Samples
# of one scenario resemble each other, and new data come as new scenarios. So let scenario $g$
# lose the share of its benign samples that alarm,
# $$L_g(\lambda) = \frac{1}{n_g} \sum_{i \in g} 1[s_i > \lambda].$$
# This loss lies between 0 and 1 and falls as the threshold rises, which is all that conformal
# risk control [3] asks for. With $\hat R(\lambda)$ the mean loss of $n$ dev scenarios, take the
# lowest threshold with
# $$\frac{n}{n+1}\,\hat R(\lambda) + \frac{1}{n+1} \le \alpha;
# \quad\text{then}\quad E[L_{n+1}(\lambda)] \le \alpha$$
# for a scenario that was not in dev. Where scenarios have one sample each, this is the rank
# rule for single scores.

# %% [markdown]
# ## The method happens here
#
# Take the benign dev samples of the monitor with the largest AUROC, and lower the threshold
# from the highest score as far as the bound allows.

# %%
best = list(table["name"][:6])
benign = chosen[(chosen["split"] == "dev") & (chosen["label"] == 0)]
benign = benign[benign["name"] == best[0]]
score = pd.Series(points.operating_scores(benign), index=benign["scenario_id"].to_numpy())
n = score.index.nunique()
lowest = np.inf
for value in sorted(score.unique(), reverse=True):
    loss = (score > value).groupby(level=0).mean().mean()
    if n / (n + 1) * loss + 1 / (n + 1) > ALPHA:
        break
    lowest = value
print(f"{best[0]}: alarm above {lowest:.4f}, from {n} scenarios")

# %%
rule = points.choose_rule(
    score.to_numpy(), score.index, ALPHA, "crc", DELTA, unit="scenario"
)
print(f"the library: alarm above {rule.value:.4f}, {rule.state}")

# %% [markdown]
# A stricter promise holds the expected loss itself below $\alpha$ with probability
# $1 - \delta$ over the choice of dev scenarios [2, UCB]. Losses are shares here, so the exact
# binomial rule does not apply; the bound of Hoeffding and Bentkus [6] does.
#
# The other view takes single benign samples as exchangeable: `unit="pair"`, with CRC and the
# exact binomial rule. It spends the level on more alarms, and its promise is about new samples
# of the *same* scenarios.

# %% tags=["nbval-ignore-output"]
found = pd.concat(
    points.calibrated_points(chosen, levels, scope=scope, delta=DELTA, unit=unit)
    for unit in ("scenario", "pair")
    for scope in ("cell", "global")
)
at = found[(found["level"] == ALPHA) & (found["cell"] == "all")]
at = at[(at["scope"] == "global") & at["name"].isin(best)]
columns = ["name", "unit", "calibrator", "threshold", "state", "dev_units", "far"]
columns += ["far_scenarios", "mr"]
at = display.spans(at, ["far", "mr"])[columns].reset_index(drop=True)
display.table(at, caption="One threshold for all cells; rates on test")

# %% [markdown]
# With too few scenarios no threshold can promise anything, and the only rule that keeps the
# promise never alarms.

# %%
own = found[(found["unit"] == "scenario") & (found["scope"] == "cell")]
own = own[(own["name"] == best[0]) & (own["cell"] != "all")]
needed = own.pivot_table(index="calibrator", columns="level", values="n_needed")
display.table(needed.astype(int), caption="Dev scenarios without which nothing can promise")
there = own.groupby("cell", sort=False)["dev_units"].first()
display.table(there.rename("dev scenarios").reset_index())

# %%
now = own[own["level"] == ALPHA]
for calibrator, part in now.groupby("calibrator", sort=False):
    short = part[part["dev_units"] < part["n_needed"]]
    display.say(
        "At level {level:g}, {rule} needs {needed} dev scenarios. {verdict}",
        level=ALPHA,
        rule=calibrator,
        needed=int(part["n_needed"].iloc[0]),
        verdict="Every cell has as many."
        if short.empty
        else f"Too few, so it never alarms: {', '.join(short['cell'])}.",
    )

# %% [markdown]
# ## Is the promise kept?
#
# One split proves little, so we draw many, in three ways. *By pair, tested on other pairs*:
# shuffled samples are exchangeable, so this checks the rule and says nothing about new
# scenarios. *By pair, tested on other scenarios*: dev holds less information than its size
# says, and the false alarm rate scatters more than promised. *By scenario, tested on other
# scenarios*: the promise is made for these.

# %%
ways = {
    ("pair", "pair"): points.CALIBRATORS["pair"],
    ("pair", "scenario"): points.CALIBRATORS["pair"],
    ("scenario", "scenario"): points.CALIBRATORS["scenario"],
}
six = chosen[chosen["name"].isin(best)]
checked = pd.concat(
    resplits.resplit_check(
        six,
        ALPHA,
        calibrator,
        "global",
        run.rng(f"{calibrator} {unit} {split_by}"),
        sizes.resplits,
        unit,
        DELTA,
        split_by=split_by,
    ).assign(calibrator=calibrator)
    for (unit, split_by), calibrators in ways.items()
    for calibrator in calibrators
)
fig = figures.plot_promise(checked, ALPHA, DELTA)
display.show(
    fig,
    "04_promise",
    alt="Mean and spread of the test false alarm rate over many random splits, calibrated by "
    "pair or by scenario and tested on other pairs or scenarios, beside the level.",
)

# %% [markdown]
# Left, look at the points: a mean beyond the dashed line is a promise in expectation that was
# not kept. Right, look at the right ends of the lines: the 90th percentile should lie at or
# below the level, up to the noise of a finite test split.

# %% tags=["nbval-ignore-output"]
columns = ["name", "calibrator", "unit", "split_by", "mean_far", "exceed", "exceed_expected"]
display.table(
    checked[columns].reset_index(drop=True), caption=f"{sizes.resplits} splits"
)

# %% [markdown]
# *Exceed* is the share of splits whose test rate lies above the level, and *exceed expected*
# what exchangeable scores without ties would give: a test split is finite, so its rate can
# exceed the level even where the true rate does not. By scenario there is no such reference.

# %% tags=["nbval-ignore-output"]
exact = checked[checked["calibrator"] == "binomial"].set_index(["split_by", "name"])["exceed"]
strict = checked[checked["calibrator"] == "hoeffding_bentkus"]["exceed"]
display.say(
    "The exact binomial rule by pair exceeds the level in {pairs:.0%} of the splits by pair "
    "(mean over monitors) and in {scenarios:.0%} of those by scenario; the strict rule by "
    "scenario in {strict:.0%}.",
    pairs=exact["pair"].mean(),
    scenarios=exact["scenario"].mean(),
    strict=strict.mean(),
)

# %% tags=["nbval-ignore-output"]
per_cell = pd.concat(
    resplits.resplit_check(
        six,
        ALPHA,
        "crc",
        "cell",
        run.rng(f"cells {unit} {split_by}"),
        sizes.resplits,
        unit,
        split_by=split_by,
    )
    for unit, split_by in ways
)
display.table(
    per_cell.pivot(index=["unit", "split_by", "name"], columns="cell", values="mean_far"),
    decimals=2,
    caption="Mean test false alarm rate with a CRC threshold of each cell's own",
)

# %% [markdown]
# ## One threshold for all, or one per cell?
#
# A global threshold makes its promise about the mixture of scenarios of all cells and may
# break it in each of them. One threshold per cell promises it in every cell, and needs enough
# dev scenarios in each. Both speak of scenarios that are exchangeable with those of dev.

# %%
shown = found[(found["calibrator"] == "crc") & (found["unit"] == "scenario")]
shown = shown[shown["level"] == ALPHA]
fig = figures.plot_scopes(shown, ALPHA, best)
display.show(
    fig,
    "04_scopes",
    alt="Test false alarm rate of every cell with 95 percent intervals over scenarios, under "
    "one threshold for all cells and under one per cell.",
)

# %% [markdown]
# Marks to the right of the dashed line broke the level on this test split. An interval that
# holds the line leaves it open whether another split would say the same.

# %% tags=["nbval-ignore-output"]
cells = shown[(shown["cell"] != "all") & (shown["state"] == "calibrated")]
worst = cells.groupby(["name", "scope"])["far"].max().unstack()
display.table(worst.reindex(best), caption="Largest false alarm rate of any cell")

# %% [markdown]
# ## Real judges at a chosen threshold
#
# The recorded judges gave scores too, and so do the rules that read one letter (notebook 03).
# Half of the scenarios of the transcripts, drawn at random within label and source, serve as
# dev.

# %%
judge_verdicts = read_table(run, "03_monitor_evaluation", "judge_verdicts")
if len(judge_verdicts):
    transcripts = read_table(run, "01_benchmark_construction", "real_transcripts")
    halves = halved(transcripts, run.rng("halves"))
    judges = rates.join(judge_verdicts, halves)
    judges["name"] = judges["monitor"].str.removesuffix(", recorded")
    later = judges[judges["split"] == "test"]
    areas = roc_bands.curve_table(later, run.rng("judges"), n=sizes.resamples)
    areas = display.spans(areas, ["auroc", "tpr_10"])
    display.table(
        areas[["name", "n", "n_unscored", "auroc", "tpr_10"]],
        caption="Judges and letters on the test half of both kinds of transcript",
    )
    held = points.tradeoff_at_own_threshold(judges, (0.05, ALPHA, 0.2))
    fig = figures.plot_rules(held, sorted(judges["name"].unique()))
    display.show(
        fig,
        "04_judges",
        alt="Miss rate and false alarm rate of five recorded judges and of two rules that "
        "read one letter, at their own threshold and at common false alarm levels chosen on "
        "half of the transcripts.",
    )
else:
    print("no judges in this run: they need the cpu profile and the open files")

# %% [markdown]
# ## What does a caught misbehavior cost?
#
# With base rate $\pi$, price $C$ of a verdict and $v$ of a person's look at an alarm,
# $$\frac{C + v\,(\pi\,\mathrm{TPR} + (1-\pi)\,\mathrm{FAR})}{\pi\,\mathrm{TPR}}$$
# per caught misbehavior. At a low base rate the second term decides: false alarms cost
# more than verdicts. The prices are parameters of this notebook, not measurements.

# %%
rule_based = test[test["name"].isin(("always alarm", "keywords", "cue follower"))]
priced = cost.cost_table(rule_based.assign(cost_usd=0.0), BASE_RATE, REVIEW_USD)
columns = ["name", "tpr", "far", "caught_per_1000", "alarms_per_1000"]
columns += ["false_per_caught", "usd_per_caught"]
display.table(priced[columns], decimals=2, caption="Free verdicts; an abstention is an alarm")

# %% [markdown]
# Read the last column against the fifth: the price of a caught misbehavior is nearly that of
# the false alarms which come with it.

# %% [markdown]
# A cascade asks a cheap monitor first and an expensive one only where the cheap score is
# near its threshold. Here both are recorded judges, priced as if one cost twenty times
# the other; the band is chosen on dev, errors and cost are measured on test.

# %%
if len(judge_verdicts):
    cheap = judges[judges["monitor"].str.startswith("claude-sonnet-4")]
    expensive = judges[judges["monitor"].str.startswith("gpt-4o")]
    sweep = cascades.cascade_sweep(
        cheap.assign(cost_usd=CALL_USD / 20),
        expensive.assign(cost_usd=CALL_USD),
        base_rate=BASE_RATE,
        review_usd=REVIEW_USD,
    )
    fig = figures.plot_cascade(sweep)
    display.show(
        fig,
        "04_cascade",
        alt="Miss rate, false alarm rate and cost per caught misbehavior of a cascade "
        "of two recorded judges, against the share of transcripts that is escalated.",
    )

# %% [markdown]
# ## If some labels are wrong
#
# A share $\eta$ of wrong labels bounds what the true rates can be. If errors of label and
# verdict are independent given the truth, the rates can even be corrected [5]; without
# that assumption only the worst case holds. From an annotation with $c$ disagreements in
# $n$, an upper bound of $\eta$ follows by Clopper and Pearson. A fault of a scenario is in all
# of its samples, so scenarios are counted here.

# %%
given = read_table(run, "02_annotation_and_audit", "annotations")
known = samples.set_index("sample_id").loc[given["sample_id"], ["label", "scenario_id"]]
apart = given["given"].to_numpy() != known["label"].to_numpy()
apart = pd.Series(apart).groupby(known["scenario_id"].to_numpy()).any()
eta = label_noise.eta_from_agreement(int(apart.sum()), len(apart))
display.say(
    "Annotators gave another label than the author in {wrong} of {n} scenarios; that allows up "
    "to {eta:.1%} wrong labels.",
    wrong=int(apart.sum()),
    n=len(apart),
    eta=eta,
)

# %%
noise = label_noise.noise_bounds(test[test["name"].isin(best)], (eta, 0.05))
fig = figures.plot_noise(noise, best)
display.show(
    fig,
    "04_noise",
    alt="Observed miss and false alarm rates with the worst case under two shares of "
    "wrong labels.",
)

# %% [markdown]
# ## Does it hold?

# %%
assert rule.value == lowest, "by hand and by the library: the same threshold"
kept = checked[(checked["unit"] == checked["split_by"]) & (checked["calibrator"] == "crc")]
spread = (kept["far_q90"] - kept["far_q10"]) / 2.56 / np.sqrt(sizes.resplits)
assert (kept["mean_far"] <= ALPHA + 4 * spread + 1e-9).all(), "CRC keeps the mean at the level"
mean = checked.groupby(["unit", "calibrator"])["mean_far"].mean()
assert mean["pair", "binomial"] <= mean["pair", "crc"], "the exact rule is more careful"
assert mean["scenario", "hoeffding_bentkus"] <= mean["scenario", "crc"], "so is the strict one"
free = found[found["state"] == "never_alarm"]
assert (free["far"].fillna(0) == 0).all(), "a rule that never alarms has no false alarm"
assert (noise["worst_low"] <= noise["observed"]).all(), "bounds hold what was observed"
assert (noise["observed"] <= noise["worst_high"]).all(), "bounds hold what was observed"
print("thresholds keep what they promise to the units that they were made for")

# %% [markdown]
# ## Writing the outputs

# %%
write_table(run, "operating_points", found[OPERATING_POINTS.columns])
run.write_metrics(
    {f"auroc.{row.name}": row.auroc for row in table.itertuples()}
    | {f"tpr_10.{row.name}": row.tpr_10 for row in table.itertuples()}
    | {
        f"mean_far.{r.calibrator}.{r.unit}.{r.split_by}.{r.name}": r.mean_far
        for r in checked.itertuples()
    }
)
top = table.iloc[0]
display.headline(
    f"{top['tpr_10']:.2f}", f"detection rate at 10 % false alarms, {top['name']}"
)
run.close()

# %% [markdown]
# ## What we saw
#
# - We read curves with their bands, and detection at false alarm rates one can afford.
# - We chose thresholds on dev with a promise for new scenarios, and checked over many splits
#   what it costs and what a promise for single samples is worth.
# - We put a price on a caught misbehavior, for one monitor and for a cascade.
#
# **Limits.** The promise is about scenarios like those of dev: written by the same few
# authors, for the same six cells. Dev has few of them, so strict promises are out of reach in
# most cells. Promises hold for each row alone, not for all rows at once. Prices are
# assumptions. The small model is a small stand-in.

# %% [markdown]
# ## Exercises
#
# 1. Set `ALPHA` to .01. Which cells can still keep a promise of their own?
#    <details><summary>Answer</summary>None: CRC needs 99 dev scenarios and the strict rule
#    230 at delta .1, and no cell has a third of that. They never alarm, and say so.</details>
# 2. Set `REVIEW_USD` to 0. Which monitor is now the cheapest per caught misbehavior?
#    <details><summary>Answer</summary>They all cost nothing: verdicts are free in that table,
#    and so are looks. Then the one that always alarms is the best, for it catches everything.
#    The price of a false alarm is what makes precision worth anything.</details>
# 3. Why may a threshold not be chosen on the test split, if it is only one number?
#    <details><summary>Answer</summary>Chosen there, it fits the noise of those samples: on
#    them the false alarm rate is at most the level by construction, on new ones it is not.
#    </details>
