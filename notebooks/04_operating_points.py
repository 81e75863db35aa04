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
SAMPLES_FILE: str = ""  # your own labelled samples instead of the benchmark

# %%
import numpy as np
import pandas as pd

from monitorlab import display
from monitorlab.chapters import operating_points as chapter
from monitorlab.evaluation import bootstrap, cost, label_noise, rates
from monitorlab.evaluation import operating_points as points
from monitorlab.pipeline.runs import open_run
from monitorlab.statistics import roc

# %% [markdown]
# The verdicts are those of notebook 03, on the benchmark, or on your own samples if both notebooks
# get the same `SAMPLES_FILE`. Without a column split, a third of its scenarios is drawn for dev.

# %%
run = open_run("04_operating_points", profile=PROFILE, run_id=RUN_ID, seed=SEED)
display.use(run)
sizes = run.profile.evaluation
file = run.record_file(SAMPLES_FILE) if SAMPLES_FILE else None
run.check_same_files("03_monitor_evaluation")
if file:
    samples = chapter.own_samples(file, run.rng("own samples"), print)
else:
    samples = run.read_table("01_benchmark_construction", "samples")
verdicts = run.read_table("03_monitor_evaluation", "verdicts")
judged = rates.join(verdicts, samples)
whole = judged.groupby("name")["sample_id"].transform("size")
judged = judged[whole == whole.max()]  # monitors that judged all samples
scored = judged[judged["score"].notna() & ~judged["name"].isin(chapter.CORNERS)]
print(f"{scored['name'].nunique()} monitors with scores, {whole.max()} samples each")

# %% [markdown]
# ## Every threshold at once
#
# Suppose a monitor gives a sample the score 0.7. With a threshold of 0.5 this is an alarm,
# with a threshold of 0.8 it is none. A monitor with scores is therefore many monitors, one for
# each threshold, and its ROC curve shows the false alarm rate and the detection rate of all of
# them. The DET curve [4] shows the same points on stretched axes, where few false alarms get
# more room and normally distributed scores give a straight line.
#
# The intervals come from resampling whole scenarios. A sample whose verdict failed has no
# score, and so no place on a curve. The column `n_unscored` counts these samples.

# %% tags=["nbval-ignore-output"]
test = judged[judged["split"] == "test"]
seen = scored[scored["split"] == "test"]
names = sorted(judged["name"].unique())
counts = seen["name"].value_counts()
some = sorted(counts[counts > 0.9 * counts.max()].index)
table = bootstrap.curve_table(
    test[test["name"].isin(some)], run.rng("curves"), n=sizes.resamples
)
table = table.dropna(subset="auroc").sort_values("auroc", ascending=False)
table = table.reset_index(drop=True)
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
    band = roc.roc_band(
        part["score"], part["label"], part["scenario_id"], run.rng(name), sizes.resamples
    )
    bands[name] = band.grid
fig = chapter.plot_curves(bands, seen, names)
display.show(
    fig,
    "04_curves",
    thumbnail=True,
    alt="ROC curves with 95 percent bands and DET curves of the monitors that give "
    "scores, test split.",
)

# %% [markdown]
# Each colour is one monitor. In the left panel a curve nearer to the upper left corner is
# better, and a monitor whose band holds the dotted diagonal cannot be told from chance. In the
# right panel both axes are errors, so a curve nearer to the lower left corner is better.

# %% [markdown]
# ## Does the trade-off persist?
#
# Over the 22 published monitors, fewer misses go with more false alarms [1]. That may be a law
# of monitoring. It may also be that the monitors have similar curves and merely stand at
# different points of them. To find out, we hold all monitors to one false alarm rate, with
# thresholds chosen on dev. If their miss rates then agree as well, only the thresholds
# differed. A failed verdict goes to a person, so it counts as an alarm here.

# %%
levels = (0.01, 0.05, ALPHA)
chosen = judged[judged["name"].isin(some)]
rules = points.tradeoff_at_own_threshold(chosen, levels)
fig = chapter.plot_rules(rules, names)
display.show(
    fig,
    "04_rules",
    alt="Miss rate and false alarm rate at every monitor's own threshold, and at "
    "common false alarm levels with thresholds from the dev split.",
)

# %% [markdown]
# Each mark is one monitor, and the lower left corner of a panel is best. From the first panel
# to the others the marks move to about one height, the dashed level, and the spread from left to
# right that remains is a difference in discrimination. A monitor at a miss rate of 1 has no
# threshold that keeps the level, or none above which any misbehavior lies.

# %% [markdown]
# ## Discrimination and criterion
#
# Suppose a monitor detects 84 % of the misbehavior and raises 16 % false alarms. With $z$ the
# quantile function of the normal distribution, $z(0.84) \approx 1$ and $z(0.16) \approx -1$.
# Signal detection theory turns the two rates into two other numbers,
# $$d' = z(\mathrm{TPR}) - z(\mathrm{FAR}), \quad
# c = -\tfrac12\bigl(z(\mathrm{TPR}) + z(\mathrm{FAR})\bigr).$$
# The discrimination $d'$ says which curve the monitor has, and the criterion $c$ says where on
# that curve it stands. Our example has $d' = 2$ and $c = 0$. From the two definitions follows
# $$\mathrm{Cov}\bigl(z(\mathrm{MR}), z(\mathrm{FAR})\bigr) =
# \tfrac14\mathrm{Var}(d') - \mathrm{Var}(c).$$
# So fewer misses go with more false alarms exactly when the standard deviation of $c$ is more
# than half that of $d'$. This tells how the monitors were tuned. It does not tell how well they
# discriminate, so the range of $d'$ is printed beside it.

# %% tags=["nbval-ignore-output"]
split = chapter.tradeoff.decompose(chosen[chosen["split"] == "test"])
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
# We choose a threshold on dev and want to know what it is worth on new data. Samples of one
# scenario resemble each other, and new data come as new scenarios. So we count by scenario. If
# a scenario has four benign samples and one of them alarms, its loss is 1/4. In general the
# loss of scenario $g$ is the share of its $n_g$ benign samples that alarm,
# $$L_g(\lambda) = \frac{1}{n_g} \sum_{i \in g} 1[s_i > \lambda]. \qquad (1)$$
# This loss lies between 0 and 1 and falls as the threshold rises, and conformal risk control
# [3] asks for no more than that. Let $\hat R(\lambda)$ be the mean loss of $n$ dev scenarios,
# and take the lowest threshold with
# $$\frac{n}{n+1}\,\hat R(\lambda) + \frac{1}{n+1} \le \alpha. \qquad (2)$$
# Then the expected loss of a new scenario is at most the level, $E[L_{n+1}(\lambda)] \le \alpha$,
# if it is exchangeable with the dev scenarios. Where every scenario has one sample, this is the
# rank rule for single scores.

# %% [markdown]
# ## The method happens here
#
# Take four scenarios with two benign samples each and a level of 0.35. We lower the threshold
# from the highest score, one score at a time, and compute the losses of equation (1). Equation
# (2) allows a sum of losses of at most $0.35 \cdot 5 - 1 = 0.75$. Above 0.6 only the score 0.9
# alarms, so the sum is 1/2. Above 0.4 the score 0.6 alarms too, the sum is 1, and we have gone
# one step too far.

# %%
few = pd.Series([0.1, 0.6, 0.2, 0.3, 0.4, 0.9, 0.1, 0.2], index=list("AABBCCDD"))
n = few.index.nunique()
by_hand = np.inf
for value in sorted(few.unique(), reverse=True):
    losses = (few > value).groupby(level=0).mean()  # equation (1), one loss per scenario
    if n / (n + 1) * losses.mean() + 1 / (n + 1) > 0.35:  # equation (2)
        break
    by_hand = value
print(f"by hand: alarm above {by_hand}")

# %%
library = points.choose_rule(few.to_numpy(), few.index, 0.35, "crc", DELTA, unit="scenario")
print(f"the library: alarm above {library.value}")
assert library.value == by_hand, "by hand and by the library: the same threshold"

# %% [markdown]
# Now the same rule for a monitor of this run, the one with the largest AUROC, on its benign dev
# samples at the level `ALPHA`.

# %%
best = list(table["name"][:6])
benign = chosen[(chosen["split"] == "dev") & (chosen["label"] == 0)]
benign = benign[benign["name"] == best[0]]
scores = points.operating_scores(benign)
rule = points.choose_rule(
    scores, benign["scenario_id"], ALPHA, "crc", DELTA, unit="scenario"
)
print(f"{best[0]}: alarm above {rule.value:.4f}, {rule.state} on {rule.n} scenarios")

# %% [markdown]
# CRC keeps its promise on average over the choice of dev scenarios. A stricter promise is that
# the expected loss stays below $\alpha$ with probability $1 - \delta$ over that choice [2, UCB].
# Our losses are shares, so the exact binomial rule does not apply, and we use the bound of
# Hoeffding and Bentkus [6].
#
# One can also take single benign samples as exchangeable, which is `unit="pair"` below, with
# CRC and the exact binomial rule. There are more samples than scenarios, so the stricter rule has
# more to go by, but its promise is only about new samples of the *same* scenarios.

# %% tags=["nbval-ignore-output"]
found = pd.concat(
    points.calibrated_points(chosen, levels, scope=scope, delta=DELTA, unit=unit)
    for unit in ("scenario", "pair")
    for scope in ("cell", "global")
)
at = found[(found["level"] == ALPHA) & (found["cell"] == "all")]
at = at[(at["scope"] == "global") & at["name"].isin(best)]
columns = ["name", "calibrator", "threshold", "state", "dev_units"]
columns += ["far", "far_scenarios", "mr"]
for unit, part in display.spans(at, ["far", "mr"]).groupby("unit", sort=False):
    caption = f"One threshold for all cells, calibrated by {unit}; rates on test"
    display.table(part[columns].reset_index(drop=True), caption=caption)

# %% [markdown]
# The column `far` counts samples and `far_scenarios` is the mean loss of a scenario, which is what
# the promise by scenario is about. The column `state` tells whether there were enough dev units.
#
# With too few scenarios no threshold can promise anything, and the only rule that keeps the
# promise is one that never alarms. The next table shows how many scenarios each rule needs, and
# how many each cell has.

# %%
own = found[(found["unit"] == "scenario") & (found["scope"] == "cell")]
own = own[(own["name"] == best[0]) & (own["cell"] != "all")]
needed = own.pivot_table(index="calibrator", columns="level", values="n_needed")
display.table(needed.astype(int), caption="Dev scenarios that each rule needs, by level")
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
# One split proves little, so we draw many, in three ways.
#
# - *By pair, tested on other pairs.* Shuffled samples are exchangeable, so this checks the rule
#   itself. It says nothing about new scenarios.
# - *By pair, tested on other scenarios.* The samples of a scenario resemble each other, so dev
#   tells less than its size suggests, and the false alarm rate can scatter more than promised.
# - *By scenario, tested on other scenarios.* This is the case for which the promise is made.

# %%
ways = {
    ("pair", "pair"): points.CALIBRATORS["pair"],
    ("pair", "scenario"): points.CALIBRATORS["pair"],
    ("scenario", "scenario"): points.CALIBRATORS["scenario"],
}
six = chosen[chosen["name"].isin(best)]
checked = pd.concat(
    points.resplit_check(
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
fig = chapter.plot_promise(checked, ALPHA, DELTA)
display.show(
    fig,
    "04_promise",
    alt="Mean and spread of the test false alarm rate over many random splits, calibrated by "
    "pair or by scenario and tested on other pairs or scenarios, beside the level.",
)

# %% [markdown]
# The dashed line is the level, and further left means fewer false alarms. In the left panel look
# at the points, since a mean to the right of the dashed line is a promise in expectation that
# was not kept. In the right panel look at the right ends of the lines, where the 90th percentile
# should not pass the level by more than the noise of a finite test split.

# %% tags=["nbval-ignore-output"]
columns = ["name", "calibrator", "unit", "split_by", "mean_far", "exceed", "exceed_expected"]
display.table(
    checked[columns].reset_index(drop=True), caption=f"{sizes.resplits} splits"
)

# %% [markdown]
# The column `exceed` is the share of splits whose test rate lies above the level. A test split
# is finite, so its rate can exceed the level even where the true rate does not. The column
# `exceed_expected` says how often that happens with exchangeable scores without ties. There is
# no such reference for losses by scenario.

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

# %% [markdown]
# We repeat the check with CRC and a threshold of each cell's own. A column that is zero under a
# calibration by scenario belongs to a cell with too few dev scenarios, where the rule never
# alarms.

# %% tags=["nbval-ignore-output"]
per_cell = pd.concat(
    points.resplit_check(
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
# A threshold that is too low for one cell can be made up for by another cell in which it is too
# high. This is why a global threshold makes its promise about the mixture of scenarios of all
# cells, and may break it in one of them. One threshold per cell makes the promise in every cell,
# and needs enough dev scenarios in each. Both promises are about scenarios that are exchangeable
# with those of dev.

# %%
shown = found[(found["calibrator"] == "crc") & (found["unit"] == "scenario")]
shown = shown[shown["level"] == ALPHA]
fig = chapter.plot_scopes(shown, ALPHA, best)
display.show(
    fig,
    "04_scopes",
    alt="Test false alarm rate of every cell with 95 percent intervals over scenarios, under "
    "one threshold for all cells and under one per cell.",
)

# %% [markdown]
# Each panel is a monitor, each row a cell, and further left means fewer false alarms. Marks to
# the right of the dashed line broke the level on this test split. An interval that holds the
# line leaves it open whether another split would say the same.

# %% tags=["nbval-ignore-output"]
cells = shown[(shown["cell"] != "all") & (shown["state"] == "calibrated")]
if len(cells):
    worst = cells.groupby(["name", "scope"])["far"].max().unstack()
    display.table(worst.reindex(best), caption="Largest false alarm rate of any cell")
else:
    print("no threshold could be calibrated: there are too few dev scenarios, as shown above")

# %% [markdown]
# ## Real judges at a chosen threshold
#
# So far all scores came from monitors that run here. The recorded judges of notebook 03 gave
# scores as well, and so do the rules that read one letter. We draw half of the scenarios of the
# transcripts at random within label and source, choose thresholds on this half, and test on the
# other one.

# %%
judge_verdicts = run.read_table("03_monitor_evaluation", "judge_verdicts")
if len(judge_verdicts):
    transcripts = run.read_table("01_benchmark_construction", "real_transcripts")
    halves = chapter.halved(transcripts, run.rng("halves"))
    judges = rates.join(judge_verdicts, halves)
    judges["name"] = judges["monitor"].str.removesuffix(", recorded")
    later = judges[judges["split"] == "test"]
    areas = bootstrap.curve_table(later, run.rng("judges"), n=sizes.resamples)
    areas = display.spans(areas, ["auroc", "tpr_10"])
    display.table(
        areas[["name", "n", "n_unscored", "auroc", "tpr_10"]],
        caption="Judges and letters on the test half of both kinds of transcript",
    )
    held = points.tradeoff_at_own_threshold(judges, (0.05, ALPHA, 0.2))
    fig = chapter.plot_rules(held, sorted(judges["name"].unique()))
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
# The lower left corner is best again. The first panel shows the judges at their own thresholds,
# the others at the dashed level, where only the miss rates are left to compare. Look whether any
# judge does better there than the two rules that read one letter.

# %% [markdown]
# ## The recorded GPT-5 monitor at a chosen threshold
#
# GPT-5 judged answers of agents that got a cue (notebook 03), and its probabilities are scores.
# We choose thresholds on answers to about half of the tasks and test on the others. Then we choose
# them on the gpt-oss agents and test on the OLMo agents. Tasks are few, so the threshold is
# calibrated by single answers, and what it promises is about new answers of the same agents to the
# same tasks. An agent without reasoning was not judged, and such a failed verdict counts as an
# alarm.

# %%
gpt5 = judged.head(0)
if run.has_open(chapter.recorded.GPT5_KEYS):
    cued, said = chapter.recorded.gpt5_verdicts(run.fetch)
    gpt5 = rates.join(said, chapter.halved(cued, run.rng("tasks")), ["family"])
    gpt5 = gpt5[gpt5["monitor"] == chapter.recorded.GPT5]
    by_family = np.where(gpt5["family"] == "OLMo", "test", "dev")
    ways_of_gpt5 = {"other tasks": gpt5, "gpt-oss to OLMo": gpt5.assign(split=by_family)}
    several = points.calibrated_points(gpt5, (ALPHA,), ["crc"], "global").iloc[-1]
    display.say(
        "A promise by task at level {level:g} needs {needed} dev tasks, and there are {there}.",
        level=ALPHA,
        needed=several["n_needed"],
        there=several["dev_units"],
    )

# %%
if len(gpt5):
    held = pd.concat(
        points.tradeoff_at_own_threshold(part, (0.05, ALPHA), unit="pair").assign(name=way)
        for way, part in ways_of_gpt5.items()
    )
    columns = ["name", "rule", "state", "mr", "far"]
    display.table(
        display.spans(held, ["mr", "far"])[columns].reset_index(drop=True),
        caption="GPT-5 on the test part; failed verdicts are alarms; 95 % intervals over requests, "
        "which take the tasks as given",
    )

# %%
if len(gpt5):
    fig = chapter.plot_rules(held, list(ways_of_gpt5))
    display.show(
        fig,
        "04_gpt5",
        alt="Miss rate and false alarm rate of a recorded GPT-5 monitor at its own threshold and "
        "at common false alarm levels, tested on other tasks than it was calibrated on, and on "
        "agents of another family.",
    )

# %% [markdown]
# Each mark is one way of choosing and testing, and the lower left corner is best. Marks above the
# dashed level broke it on this test part. Look how far apart the two marks of a panel are, since a
# threshold that fits one family of agents need not fit another. (Without the files this run draws
# no figure.)

# %% [markdown]
# ## What does a caught misbehavior cost?
#
# Think of 1,000 samples of which ten are misbehavior. A monitor that alarms on everything makes
# a person look 1,000 times and catches all ten, so each catch costs 100 looks. With base rate
# $\pi$, price $C$ of a verdict and price $v$ of a person's look at an alarm, a caught
# misbehavior costs
# $$\frac{C + v\,(\pi\,\mathrm{TPR} + (1-\pi)\,\mathrm{FAR})}{\pi\,\mathrm{TPR}}.$$
# At a low base rate most of this is the price of looking at false alarms. The base rate and the
# price of a look are parameters of this notebook, not measurements.

# %%
rule_based = test[test["name"].isin(("always alarm", "keywords", "cue follower"))]
priced = cost.cost_table(rule_based.assign(cost_usd=0.0), BASE_RATE, REVIEW_USD)
columns = ["name", "tpr", "far", "caught_per_1000", "alarms_per_1000"]
columns += ["false_per_caught", "usd_per_caught"]
display.table(priced[columns], decimals=2, caption="Free verdicts; an abstention is an alarm")

# %% [markdown]
# Check the row of *always alarm* by hand. Both of its rates are 1, so its price is $v / \pi$.
# Then compare the last two columns in every row. Multiply the false alarms per catch by the price
# of a look, and you have nearly the whole price of the catch.

# %% [markdown]
# ## A cheap monitor first
#
# A cascade asks a cheap monitor first, and an expensive one only where the cheap score is near
# its threshold. Here both are recorded judges, priced as if a verdict of one cost 2 cents, and of
# the other a twentieth of that. How near is near enough is chosen on dev, by the rule that bounded
# false alarms above. With 99 dev scenarios of a class, of which 9 would be escalated, it counts
# $(9 + 1) / (99 + 1)$, one in ten. Both classes are weighed by the base rate, and new scenarios are
# then escalated at most as often as the budget says, on average. Errors and cost are measured on
# test.

# %%
if len(judge_verdicts):
    cheap = judges[judges["monitor"].str.startswith("claude-sonnet-4")]
    expensive = judges[judges["monitor"].str.startswith("gpt-4o")]
    sweep = cost.cascade_sweep(
        cheap.assign(cost_usd=0.001),
        expensive.assign(cost_usd=0.02),
        base_rate=BASE_RATE,
        review_usd=REVIEW_USD,
    )
    fig = chapter.plot_cascade(sweep)
    display.show(
        fig,
        "04_cascade",
        alt="Miss rate, false alarm rate and cost per caught misbehavior of a cascade "
        "of two recorded judges, against the share of transcripts that is escalated.",
    )

# %% [markdown]
# In both panels the share of transcripts that the expensive judge sees grows from left to right,
# and lower is better. The share is the one found on test, which chance can put above a budget. The
# cheap judge decides alone at the left end and the expensive one at the right end, so look whether
# some share between them is better than both.

# %% [markdown]
# ## If some labels are wrong
#
# Suppose a monitor misses 10 of 100 samples that are labelled misbehavior, and five of the 100
# labels are wrong. If these five are all among the misses, the true miss rate is 5 of 95, about
# half of what was observed. Wrong labels among the benign samples can raise it in the same way.
# If the errors of label and verdict are independent given the truth, the rates can be corrected
# [5]. Without this assumption only the two extremes are certain, and we show them.
#
# How many labels may be wrong? Notebook 02 had samples annotated again. From $c$ disagreements
# in $n$ follows an upper bound of the share $\eta$ of wrong labels, by Clopper and Pearson. A
# fault of a scenario is in all of its samples, so we count scenarios. (Nobody annotated samples of
# your own again, so for them the share is an assumption.)

# %%
if SAMPLES_FILE:
    eta = 0.02
    display.say("No second annotation of these samples is known: {eta:.0%} is assumed.", eta=eta)
else:
    given = run.read_table("02_annotation_and_audit", "annotations")
    known = samples.set_index("sample_id").loc[given["sample_id"], ["label", "scenario_id"]]
    apart = given["given"].to_numpy() != known["label"].to_numpy()
    apart = pd.Series(apart).groupby(known["scenario_id"].to_numpy()).any()
    eta = label_noise.eta_from_agreement(int(apart.sum()), len(apart))
    display.say(
        "Annotators gave another label than the author in {wrong} of {n} scenarios; that allows "
        "up to {eta:.1%} wrong labels.",
        wrong=int(apart.sum()),
        n=len(apart),
        eta=eta,
    )

# %%
noise = label_noise.noise_bounds(test[test["name"].isin(best)], (eta, 0.05))
fig = chapter.plot_noise(noise, best)
display.show(
    fig,
    "04_noise",
    alt="Observed miss and false alarm rates with the worst case under two shares of "
    "wrong labels.",
)

# %% [markdown]
# The black tick is the rate with the labels as they are, and further left is better. The dark bar
# shows how far the true rate may lie from it under the smaller share of wrong labels, the light bar
# under the larger. Two monitors whose bars overlap may change places once the labels are right.

# %% [markdown]
# ## Does it hold?
#
# The promises of this notebook can be checked on its own results. CRC must keep the mean false
# alarm rate at the level, up to four standard errors of the splits. A stricter rule must be at
# least as careful, a rule that never alarms can have no false alarm, and worst-case bounds must
# hold the rate that was observed.

# %%
kept = checked[(checked["unit"] == checked["split_by"]) & (checked["calibrator"] == "crc")]
spread = (kept["far_q90"] - kept["far_q10"]) / 2.56 / np.sqrt(sizes.resplits)
assert (kept["mean_far"] <= ALPHA + 4 * spread + 1e-9).all(), "CRC keeps the mean at the level"
mean = checked.groupby(["unit", "calibrator"])["mean_far"].mean()
assert mean["pair", "binomial"] <= mean["pair", "crc"], "the exact rule is more careful"
assert mean["scenario", "hoeffding_bentkus"] <= mean["scenario", "crc"], "so is the strict one"
always = priced.set_index("name").loc["always alarm", "usd_per_caught"]
assert np.isclose(always, REVIEW_USD / BASE_RATE), "an alarm on everything costs v / base rate"
free = found[found["state"] == "never_alarm"]
assert (free["far"].fillna(0) == 0).all(), "a rule that never alarms has no false alarm"
assert (noise["worst_low"] <= noise["observed"]).all(), "bounds hold what was observed"
assert (noise["observed"] <= noise["worst_high"]).all(), "bounds hold what was observed"
print("thresholds keep what they promise to the units that they were made for")

# %% [markdown]
# ## Writing the outputs
#
# The table `operating_points` has one row per monitor, rule, level and cell. The report page
# shows one number of this notebook, the detection rate of the best monitor.

# %%
run.write_table("operating_points", found[chapter.OPERATING_POINTS.columns])
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
# **Limits.** The promise is about scenarios like those of dev, which the same few authors wrote
# for the same six cells. Dev has few of them, so strict promises are out of reach in most cells.
# Each promise holds for its own row, not for all rows at once. Prices are assumptions. The
# language model of notebook 03 judged too few samples to take part.

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
