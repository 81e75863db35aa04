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
# - Choose thresholds on a dev split by CRC and by the exact binomial rule, and check what
#   they promise.
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

# %% tags=["parameters"]
PROFILE: str = "tiny"  # tiny, cpu or gpu: how large everything is
RUN_ID: str = "default"  # folder of the run under data/runs
SEED: int = 2026  # one seed for everything
ALPHA: float = 0.10  # target false alarm rate
DELTA: float = 0.10  # allowed probability that the exact binomial promise fails
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
    decomposition,
    label_noise,
    rates,
    resplits,
    roc_bands,
)
from monitorlab.evaluation import operating_figures as figures
from monitorlab.evaluation import operating_points as points
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
# corner that matters, few false alarms, gets room. Bands resample whole pairs. A sample on
# which the verdict failed has no place on a curve; the table counts them.

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
    caption="Test split; detection rate at 1, 5 and 10 % false alarms",
)

# %%
bands = {}
for name in table["name"]:
    part = seen[seen["name"] == name]
    band = roc_bands.roc_band(
        part["score"], part["label"], part["pair_id"], run.rng(name), sizes.resamples
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
# Signal detection theory splits a point into discrimination $d'$, which curve, and
# criterion $c$, where on it:
# $$d' = z(\mathrm{TPR}) - z(\mathrm{FAR}), \quad
# c = -\tfrac12\bigl(z(\mathrm{TPR}) + z(\mathrm{FAR})\bigr).$$
# From the two definitions follows
# $$\mathrm{Cov}\bigl(z(\mathrm{MR}), z(\mathrm{FAR})\bigr) =
# \tfrac14\mathrm{Var}(d') - \mathrm{Var}(c).$$
# So a trade-off over monitors appears exactly when criteria vary by more than half as much
# as discrimination. It is a statement about how the monitors were tuned.

# %% tags=["nbval-ignore-output"]
split = decomposition.decompose(chosen[chosen["split"] == "test"])
display.say(
    "Standard deviation of c: {c:.2f}, half that of d': {d:.2f}. Share of the "
    "variation along the curve: {share:.0%}. Correlation of MR and FAR: {r:.2f}.",
    c=split.var_c**0.5,
    d=split.var_d**0.5 / 2,
    share=split.criterion_share,
    r=split.r,
)
columns = ["name", "auroc", "alarm_rate", "mr", "far", "d_prime", "criterion"]
display.table(split.monitors[columns], decimals=2)

# %% [markdown]
# ## The method happens here
#
# Sort the benign dev scores. Conformal risk control [3] puts the threshold at the $k$-th
# largest, $k = \lfloor \alpha (n + 1) \rfloor$, which keeps the *mean* false alarm rate at
# most $\alpha$. The exact binomial rule takes the largest $k$ with
# $P(\mathrm{Bin}(n, \alpha) \le k - 1) \le \delta$, which keeps the rate itself below
# $\alpha$ with probability $1 - \delta$ [2, UCB]. Both assume that benign dev samples and
# future ones are exchangeable. With too few samples, neither promises anything.

# %% tags=["nbval-ignore-output"]
best = list(table["name"][:6])
found = pd.concat(
    points.calibrated_points(chosen, levels, scope=scope, delta=DELTA)
    for scope in ("cell", "global")
)
at = found[(found["level"] == ALPHA) & (found["cell"] == "all")]
at = at[(at["scope"] == "global") & at["name"].isin(best)]
columns = ["name", "calibrator", "threshold", "state", "n_dev", "far", "mr"]
at = display.spans(at, ["far", "mr"])[columns].reset_index(drop=True)
display.table(at, caption="One threshold for all cells; rates on test")

# %%
needed = found.groupby(["calibrator", "level"])["n_needed"].max().unstack()
display.table(
    needed, caption="Benign dev samples without which no threshold can promise"
)

# %% [markdown]
# ## Is the promise kept?
#
# One split proves little, so we draw many. Splitting *pairs* at random makes dev and test
# exchangeable, as the promise assumes. Splitting whole *scenarios* does not: samples of
# one scenario may resemble each other; then the dev split holds less information than its
# size says, and the false alarm rate on new scenarios scatters more. A new deployment is
# closer to the second.

# %%
checked = pd.concat(
    resplits.resplit_check(
        chosen[chosen["name"].isin(best)],
        ALPHA,
        calibrator,
        "global",
        run.rng(f"{calibrator} {unit}"),
        sizes.resplits,
        unit,
        DELTA,
    ).assign(calibrator=calibrator)
    for calibrator in points.CALIBRATORS
    for unit in ("pair", "scenario")
)
fig = figures.plot_promise(checked, ALPHA, DELTA)
display.show(
    fig,
    "04_promise",
    alt="Mean and spread of the test false alarm rate over many random splits, by pair "
    "and by scenario, beside the level.",
)

# %% tags=["nbval-ignore-output"]
columns = ["name", "calibrator", "unit", "mean_far", "exceed", "exceed_expected"]
display.table(
    checked[columns].reset_index(drop=True), caption=f"{sizes.resplits} splits"
)

# %% tags=["nbval-ignore-output"]
per_cell = pd.concat(
    resplits.resplit_check(
        chosen[chosen["name"].isin(best)],
        ALPHA,
        "crc",
        "cell",
        run.rng(f"cells {unit}"),
        sizes.resplits,
        unit,
    )
    for unit in ("pair", "scenario")
)
display.table(
    per_cell.pivot(index=["unit", "name"], columns="cell", values="mean_far"),
    decimals=2,
    caption="Mean test false alarm rate with a CRC threshold of each cell's own",
)

# %% [markdown]
# *Exceed* is the share of splits whose test rate lies above the level, and
# *exceed expected* what exchangeable scores without ties would give: a test split is
# finite, so its rate can exceed the level even where the true rate does not.

# %% [markdown]
# ## One threshold for all, or one per cell?
#
# A global threshold makes its promise about the mixture of cells and may break it in each
# of them. One threshold per cell promises it in every cell, and needs enough dev samples
# in each. Both speak of samples that are exchangeable with the dev ones. Here dev and test
# hold different scenarios, so an interval beyond the line is a sign of that difference,
# the more so in a cell with few scenarios.

# %%
shown = found[(found["calibrator"] == "crc") & (found["level"] == ALPHA)]
fig = figures.plot_scopes(shown, ALPHA, best)
display.show(
    fig,
    "04_scopes",
    alt="Test false alarm rate of every cell with exact 95 percent intervals, under "
    "one threshold for all cells and under one per cell.",
)

# %% tags=["nbval-ignore-output"]
cells = shown[(shown["cell"] != "all") & (shown["state"] == "calibrated")]
worst = cells.groupby(["name", "scope"])["far"].max().unstack()
display.table(worst.reindex(best), caption="Largest false alarm rate of any cell")

# %% [markdown]
# ## Real judges at a chosen threshold
#
# The recorded judges gave scores too. Half of their transcripts, drawn at random within
# label and source, serve as dev.

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
    display.table(areas[["name", "n", "n_unscored", "auroc", "tpr_10"]])
    held = points.tradeoff_at_own_threshold(judges, (0.05, ALPHA, 0.2))
    fig = figures.plot_rules(held, sorted(judges["name"].unique()))
    display.show(
        fig,
        "04_judges",
        alt="Miss rate and false alarm rate of five recorded judges at the published "
        "threshold and at common false alarm levels chosen on half of the transcripts.",
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
# $n$, an upper bound of $\eta$ follows by Clopper and Pearson.

# %%
given = read_table(run, "02_annotation_and_audit", "annotations")
label = given["sample_id"].map(samples.set_index("sample_id")["label"])
apart = (given["given"] != label).groupby(given["sample_id"]).any()
eta = label_noise.eta_from_agreement(int(apart.sum()), len(apart))
display.say(
    "Annotators gave another label to {wrong} of {n} samples; that allows up to "
    "{eta:.1%} wrong labels.",
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
pairs = checked[(checked["unit"] == "pair") & (checked["calibrator"] == "crc")]
spread = np.sqrt(ALPHA * (1 - ALPHA) / pairs["n_dev"].min() / sizes.resplits)
margin = 3 * spread + 0.005
assert (pairs["mean_far"] <= ALPHA + margin).all(), "CRC keeps the mean at the level"
strict = checked[(checked["unit"] == "pair") & (checked["calibrator"] == "binomial")]
assert (strict["mean_far"] <= pairs["mean_far"].max() + margin).all(), (
    "the exact rule is the more careful one"
)
free = found[found["state"] == "never_alarm"]
assert (free["far"].fillna(0) == 0).all(), "a rule that never alarms has no false alarm"
assert (noise["worst_low"] <= noise["observed"]).all(), "bounds hold what was observed"
assert (noise["observed"] <= noise["worst_high"]).all(), "bounds hold what was observed"
print("thresholds keep what they promise on exchangeable splits, and bounds hold")

# %% [markdown]
# ## Writing the outputs

# %%
write_table(run, "operating_points", found[OPERATING_POINTS.columns])
run.write_metrics(
    {f"auroc.{row.name}": row.auroc for row in table.itertuples()}
    | {f"tpr_10.{row.name}": row.tpr_10 for row in table.itertuples()}
    | {f"mean_far.{r.calibrator}.{r.unit}.{r.name}": r.mean_far for r in checked.itertuples()}
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
# - We chose thresholds on dev with a promise, and checked it over many splits.
# - We put a price on a caught misbehavior, for one monitor and for a cascade.
#
# **Limits.** A promise about samples of known scenarios is not one about new scenarios;
# the distance is shown, not removed. Promises hold for each row alone, not for all rows
# at once. Prices are assumptions. The small model is a small stand-in.

# %% [markdown]
# ## Exercises
#
# 1. Set `ALPHA` to .01. Which cells can still keep a promise of their own?
#    <details><summary>Answer</summary>Those with enough benign dev samples: CRC needs 99,
#    the exact rule 230 at delta .1. The others never alarm, and say so.</details>
# 2. Set `REVIEW_USD` to 0. Which monitor is now the cheapest per caught misbehavior?
#    <details><summary>Answer</summary>The one that always alarms, when verdicts are free:
#    the price of a false alarm is what makes precision worth anything.</details>
# 3. Why may a threshold not be chosen on the test split, if it is only one number?
#    <details><summary>Answer</summary>Chosen there, it fits the noise of those samples: on
#    them the false alarm rate is at most the level by construction, on new ones it is not.
#    </details>
