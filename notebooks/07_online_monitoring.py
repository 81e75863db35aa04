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
# # 7. Online monitoring with a guarantee
#
# > A threshold on a step score, placed by counting, raises an alarm with a guarantee; whether that
# > matches a sequential test depends on which statistic is thresholded.
#
# *Paper: arXiv 2607.02510, sections 3.2, 3.3 and 4. Cost: seconds in `tiny`, under a minute in
# `cpu`; no GPU is used.*

# %% [markdown]
# **You will learn**
# - Place an alarm threshold by counting, so that false alarms stay below a level you choose.
# - Compare it with sequential tests on false alarms, power and delay, on the same splits.
# - Choose a better statistic to threshold, without losing the guarantee.
#
# **Reads** `steps`
#
# **Writes** `thresholds`, `metrics`
#
# **References**
# - [1] Schirmer et al., *Online Safety Monitoring for LLMs*, arXiv 2607.02510.
# - [2] Sadhuka et al., *E-valuator*, arXiv 2512.03109.
# - [3] Bates et al., *Distribution-free, risk-controlling prediction sets*, J. ACM 2021.
# - [4] Page, *Continuous inspection schemes*, Biometrika 1954.

# %% tags=["parameters"]
PROFILE: str = "tiny"  # tiny, cpu or gpu: how large everything is
RUN_ID: str = "default"  # folder of the run under data/runs
SEED: int = 2026  # one seed for everything
ALPHA: float = 0.20  # target false alarm rate shown in tables
SCORES_FILE: str = ""  # your own scores, CSV, JSON or parquet; empty means none
ORIENTATION: str = "suspicion"  # what a high score means, suspicion or safety
COLUMNS: str = ""  # names in your file that differ, such as score:p_bad, group:user
POSITIVE: str = "unsafe"  # what label 1 means in your file, unsafe or safe

# %%
import numpy as np
import pandas as pd

from monitorlab import display
from monitorlab.evaluation.intervals import check_level
from monitorlab.online import (
    calibration,
    comparison,
    datasets,
    figures,
    metrics,
    ranks,
    summary,
)
from monitorlab.online.comparison import ALL_METHODS, PAPER_METHODS
from monitorlab.online.score_files import load_evaluator, load_signals
from monitorlab.online.trajectories import require_two_classes
from monitorlab.pipeline import sources
from monitorlab.pipeline.artifacts import open_run, read_table, write_table
from monitorlab.pipeline.tables import SCHEMAS

# %%
check_level(ALPHA, "ALPHA")  # bad input ends here, before anything is written
own = (
    load_signals(SCORES_FILE, ORIENTATION, columns=COLUMNS, positive=POSITIVE)
    if SCORES_FILE
    else []
)
for data in own:
    require_two_classes(data)
run = open_run(
    "07_online_monitoring",
    profile=PROFILE,
    run_id=RUN_ID,
    seed=SEED,
    parameters={
        "ALPHA": ALPHA,
        "SCORES_FILE": SCORES_FILE,
        "ORIENTATION": ORIENTATION,
        "COLUMNS": COLUMNS,
        "POSITIVE": POSITIVE,
    },
)
display.use(run)
online = run.profile.online
scored = datasets.stand_ins(read_table(run, "06_step_signals", "steps"))

# %% [markdown]
# ## The data
#
# Every sequence is a row of step scores. The score is *suspicion*: high is unsafe (the paper's
# safety score is minus ours). The label of a sequence says how it ended: 1 is unsafe, for
# instance a wrong final answer, or a rule that was given away.
#
# The miniature sets come from the previous notebook: small stand-ins, trained there, that really
# generate and really err. When the open tier is in the cache, two published sets of real verifier
# scores join them; so does a file of your own, if you named one.

# %% tags=["nbval-ignore-output"]
for name in ("math", "gsm8k"):
    source = f"evaluator/{name}.csv.gz"
    if online.open_tier and sources.available(source):
        datasets.add(scored, [load_evaluator(run.fetch(source), f"evaluator_{name}")])
if own:
    run.record_file(SCORES_FILE)
    own = datasets.add(scored, own)
display.table(datasets.overview(scored.values()), decimals=3)

# %% [markdown]
# `steps` is the mean length of a sequence, `distinct scores` tells how coarse the signal is: a
# verifier that answers in steps of 0.05 has only about twenty values, and ties will matter below.
#
# ## What an alarm is
#
# A monitor alarms at the first step whose score passes the threshold,
# $$t_{\mathrm{alarm}} = \min\{t : s_t > \lambda\},$$
# so a sequence alarms if and only if its *peak* $M = \max_t s_t$ passes it. The false alarm rate is
# $R_I(\lambda) = P(M > \lambda \mid \text{safe})$. It falls as the threshold rises, and it can only
# change where some safe peak lies.

# %% [markdown]
# ## The method happens here
#
# Take the safe sequences of a calibration set and sort their peaks. Conformal risk control asks for
# the lowest threshold with $\frac{n}{n+1} \hat R(\lambda) + \frac{1}{n+1} \le \epsilon$ ([1],
# Eq. 8). Nothing has to be searched: it is the $k$-th largest safe peak,
# $k = \lfloor \epsilon (n + 1) \rfloor$. That keeps $E[R_I] \le \epsilon$ over the draw of the
# calibration set, if calibration and future sequences are exchangeable.

# %%
peaks = np.array([0.12, 0.55, 0.31, 0.08, 0.72, 0.26, 0.40, 0.19, 0.93])
k = ranks.crc_rank(len(peaks), level=0.10)
by_hand = np.sort(peaks)[::-1][k - 1]
threshold = calibration.calibrate(peaks, level=0.10)
display.say(
    "Nine safe peaks, level 0.10, rank {k}: alarm above {value:.2f}.",
    k=k,
    value=by_hand,
)

# %% [markdown]
# With one sequence fewer there is no such rank, and the honest answer is never to alarm. The
# calibrator says so, and says what would be needed.

# %%
display.say("{answer}", answer=calibration.calibrate(peaks[:6], level=0.10).explain())

# %% [markdown]
# A stricter promise holds with probability $1 - \delta$ over the calibration set instead of on
# average. The exact binomial test takes $k = c^* + 1$ with
# $c^* = \max\{c : P(\mathrm{Bin}(n, \epsilon) \le c) \le \delta\}$ [3]; the paper's UCB replaces
# the tail by the Hoeffding-Bentkus bound, which also holds for losses that are not zero or one, and
# for zero-one losses is never tighter.

# %%
price_list = pd.DataFrame(
    {
        "n": n,
        "CRC": ranks.crc_rank(n, 0.10),
        "exact binomial": ranks.binomial_rank(n, 0.10, online.delta),
        "UCB": ranks.hoeffding_bentkus_rank(n, 0.10, online.delta),
    }
    for n in (9, 22, 50, 100, 500, 1000, 5000)
)
display.table(
    price_list, caption="Rank k at level 0.10, delta 0.1; 0 means never alarm"
)

# %% [markdown]
# Read a row as a price list: with 100 safe sequences CRC may spend ten of them on false alarms, the
# high-probability rules fewer. The gap closes slowly, like one over the root of $n$.
#
# ## Does it hold?
#
# Without ties the risk of rank $k$ follows a Beta$(k, n + 1 - k)$ law, whatever the score. So the
# promise can be checked by simulation, here with $n = 66$ safe sequences.

# %%
rng = run.rng("validity")
simulated = rng.random((4000, 66))
levels_seen = {
    name: 1.0 - np.sort(simulated, axis=1)[:, -ranks.RANK_RULES[name](66, 0.10, 0.1)]
    for name in ("crc", "binomial", "hoeffding_bentkus")
}
check = pd.DataFrame(
    {
        "calibrator": name,
        "mean risk": risk.mean(),
        "share above 0.10": (risk > 0.10).mean(),
    }
    for name, risk in levels_seen.items()
)
display.table(check, decimals=3)

# %%
standard_error = levels_seen["crc"].std() / np.sqrt(4000)
assert levels_seen["crc"].mean() <= 0.10 + 4 * standard_error, (
    "CRC must keep the mean risk"
)
for name in ("binomial", "hoeffding_bentkus"):
    share = (levels_seen[name] > 0.10).mean()
    assert share <= 0.10 + 4 * np.sqrt(0.09 / 4000), (
        f"{name} must exceed the level rarely"
    )
print("both promises hold in 4,000 simulated calibrations")

# %% [markdown]
# CRC promises the first column only, and may exceed the level in a good share of calibrations; the
# other two promise the second. Which one you want depends on whether you calibrate once or often.
#
# ## An alarm, seen from close up
#
# The threshold below is calibrated on a fifth of the sequences; the four sequences are from the
# rest.

# %% tags=["nbval-ignore-output"]
example = own[0] if own else scored["miniature_math_strong", "verifier"]
share = online.calibration_fraction
calibrating, testing = next(datasets.random_splits(len(example), 1, share, SEED))
held_out, chosen = example.take(testing), example.take(calibrating)
safe_peaks = metrics.peaks(chosen.take(chosen.labels == 0))
threshold = calibration.calibrate(safe_peaks, ALPHA)
display.say(
    "Data set {name}: {text}", name=datasets.sizes(example), text=threshold.explain()
)

# %%
chosen = datasets.telling_examples(held_out, threshold)
fig = figures.plot_examples(
    held_out,
    threshold,
    chosen,
    datasets.figure_title(f"Until the alarm: {datasets.sizes(example)}", example),
)
display.show(
    fig,
    "07_examples",
    alt="Suspicion by step of a few held-out sequences, safe and unsafe, with the "
    "calibrated threshold dashed and a ring at the first step above it.",
)

# %% [markdown]
# A ring marks the alarm. Blue panels ought to stay below the line, red ones ought to cross it, and
# early. What the panels cannot show is how often; for that we need many splits.
#
# ## The comparison
#
# The paper's protocol: a fifth of the sequences calibrates, the rest counts, over several random
# splits and six levels. The rivals are two forms of e-valuator [2], a likelihood ratio of unsafe to
# safe, estimated step by step,
# $$M_t = \frac{p(\text{unsafe} \mid s_{1:t})}{p(\text{safe} \mid s_{1:t})}
#        \cdot \frac{p(\text{safe})}{p(\text{unsafe})}.$$
# *Anytime* alarms at $M_t > 1/\epsilon$, which is valid if the estimated ratio is exact. *PAC*
# learns it on half of the calibration set and puts a tolerance limit on the other half.
# Everything here is computed on the same splits.

# %%
compared = [
    comparison.compare_resampled(
        data,
        ALL_METHODS,
        datasets.random_splits(len(data), online.n_splits, share, SEED),
        level=ALPHA,
        levels=online.levels,
        delta=online.delta,
    )
    for data in display.progress(list(scored.values()), "comparing")
]
results, resamples = map(pd.concat, zip(*compared, strict=True))

# %%
main = {
    key: datasets.sizes(data)
    for key, data in scored.items()
    if not datasets.is_ablation(data)
}
expected = len(scored) * len(ALL_METHODS) * online.n_splits
assert len(results) == expected * len({*online.levels, ALPHA}), (
    "one row per method, level, split"
)
print(f"{len(ALL_METHODS)} methods, {online.n_splits} splits: every cell is there")

# %% [markdown]
# ### Reasoning: two generators of different strength
#
# Columns are data sets, rows are measures, lines are the paper's four methods; bands span the tenth
# to the ninetieth percentile over splits. In the first row, the dashed diagonal is the promise:
# lines should stay below it, and close to it.

# %%
paper = [method.label for method in PAPER_METHODS]
math_panels = {
    key: name
    for key, name in main.items()
    if scored[key].stand_in and key[1] == "verifier"
}
fig = figures.plot_protocol(
    results, math_panels, paper, "Math, small stand-in generators and verifier"
)
display.show(
    fig,
    "07_math",
    alt="False alarms, power and delays against the target level for CRC, UCB and the "
    "two e-valuator tests, on miniature math with a strong and a weak generator.",
)

# %% [markdown]
# The paper's delay (third row) averages over *detected* sequences only, and so compares different
# sets of sequences: a monitor that detects only the obvious cases looks fast. The restricted delay
# in the last row counts a miss as a full length, and is the fair comparison.

# %% [markdown]
# ### Conversations: does the assistant give in?
#
# The same monitors on dialogues in which a user tries to talk an assistant out of a rule, scored
# turn by turn by the small guard. An alarm after the rule was broken still counts as a detection,
# so the delay matters even more here.

# %%
talk = {
    key: name
    for key, name in main.items()
    if scored[key].stand_in and key[1] == "guard"
}
fig = figures.plot_protocol(
    results,
    talk,
    paper,
    "Conversations, small stand-in guard",
    measures=("far", "power", "restricted_delay"),
)
display.show(
    fig,
    "07_conversations",
    alt="False alarms, power and restricted delay against the target level for the "
    "paper's four methods on miniature conversations scored by the small guard.",
)

# %% [markdown]
# ### Real verifier scores, and your own
#
# The same figure for every set that is not miniature: published scores of a process reward model on
# MATH and of a judge on GSM8K when they are in the cache, and the file you brought. Nothing is
# drawn if there is none.

# %%
outside = {key: name for key, name in main.items() if not scored[key].stand_in}
if outside:
    fig = figures.plot_protocol(
        results, outside, paper, "Scores from outside this repository"
    )
    display.show(
        fig,
        "07_outside",
        alt="False alarms, power and delays against the target level for the paper's "
        "four methods on data sets from outside this repository.",
    )
else:
    print("no data set from outside in this run")

# %% [markdown]
# ### The numbers, data set by data set
#
# Mean over splits, with the tenth and ninetieth percentile in brackets. The column *guarantee* is
# what a rule promises about the false alarm rate $R$; the column after it says where the rule is
# defined. Delays are shares of a sequence's steps.

# %% tags=["nbval-ignore-output"]
for (dataset, signal), name in main.items():
    rows = summary.results_table(results, ALL_METHODS, dataset, signal, ALPHA)
    display.table(rows, caption=f"{name}, level {ALPHA:g}")

# %% [markdown]
# ### The verdict in words
#
# Computed from the tables. A method keeps its level if its mean false alarm rate is not above it by
# a t-test over splits at one percent. Splits share their sequences, so they cannot say whether a
# difference would be there on other sequences: for that, all sequences are drawn anew three hundred
# times, every threshold is placed again, and a difference is called clear only if its 95 percent
# interval excludes zero. From fewer than ten sequences of a class, nothing is concluded.

# %% tags=["nbval-ignore-output"]
for key in main:
    sentences = summary.verdict(results, resamples, ALL_METHODS, *key, ALPHA)
    display.say("**{name}.** {text}", name=scored[key].name, text=" ".join(sentences))

# %% [markdown]
# ## Which statistic should be thresholded?
#
# The guarantee does not care what is thresholded. The calibrator sees only the peaks of *some*
# statistic that depends on the past. So one may threshold the running mean, an exponentially
# weighted mean, a cumulative sum, the e-valuator ratio, or a learned one: the log odds of danger
# given five numbers about the prefix (the score, its running maximum and mean, the first score, the
# step). What is learned is learned on half of the calibration set and calibrated on the other half.
#
# Each mark below is one method; up and to the left is better. The arms span the splits.

# %%
fig = figures.plot_trade_off(
    results,
    main,
    ALPHA,
    f"Power against restricted delay at level {ALPHA:g} (miniature sets are "
    "small stand-ins)",
)
display.show(
    fig,
    "07_statistics",
    thumbnail=True,
    alt="Power against restricted delay of every method at one level, a panel per data "
    "set; arms span the tenth to the ninetieth percentile over splits.",
)

# %% [markdown]
# Part of what an early alarm knows is how hard the problem looked at the first step. That is a
# legitimate use of the score, but it is prediction rather than detection: if your alarm should
# point to the step that went wrong, prefer the paper's threshold on the latest score.
#
# ## Is the verifier worth its price?
#
# The paper's ablation: replace the verifier by a signal that costs nothing, the lowest or the mean
# token log-probability of each step, and keep the CRC threshold.

# %%
math_names = {key[0]: name for key, name in math_panels.items()}
fig = figures.plot_signals(
    results, math_names, "CRC", "Verifier against log-probability, small stand-ins"
)
display.show(
    fig,
    "07_signals",
    alt="Power and restricted delay of the CRC threshold against the target level, under "
    "the verifier and the minimum and mean token log-probability, both generators.",
)

# %% [markdown]
# The guarantee is the same for all three signals, since it only counts; what a better signal buys
# is power. Where the verifier lies above, the gap is what it is worth; where it lies below, the
# free signal was the better choice, as it may be for models so small that they mostly slip.
#
# ## Ties
#
# Scores on a coarse grid tie. A strict threshold cannot split a tie, so part of the level stays
# unspent. Breaking ties by one seeded draw per sequence spends it, at the price of randomness. The
# last row rounds the scores of the first to steps of 0.05, as a judge would give them.

# %% tags=["nbval-ignore-output"]
first = next(iter(main))
tested = [scored[key] for key in main] + [datasets.rounded(scored[first], step=0.05)]
draws = display.progress(tested, "with and without ties")
ties = pd.DataFrame(
    comparison.tie_effect(
        data, ALPHA, datasets.random_splits(len(data), online.n_splits, share, SEED)
    )
    for data in draws
)
display.table(ties, caption=f"CRC at level {ALPHA:g}: ties on the safe side, and drawn")

# %% [markdown]
# *attained* is the share of safe calibration sequences that alarm at the threshold; without ties it
# is just below the level. The fewer distinct scores, the more a draw can gain.
#
# ## Writing the outputs
#
# One row per data set, signal, statistic, calibrator, level and split. The next notebook and your
# own analysis read these tables.

# %%
for name in ("thresholds", "metrics"):
    write_table(run, name, results[SCHEMAS[name].columns])
print("wrote thresholds and metrics:", ", ".join(SCHEMAS["metrics"].columns[7:]))

# %%
run.write_metrics(summary.headline_metrics(results, ALPHA))
first = next(iter(math_panels))
best = summary.difference(
    results, resamples, "learned + CRC", "CRC", "restricted_delay", *first, ALPHA
)
display.headline(
    f"{best.mean:+.2f}",
    f"restricted delay, learned statistic minus CRC threshold, level {ALPHA:g}",
)
run.close()

# %% [markdown]
# ## What we saw
#
# - We placed an alarm threshold by counting, and checked by simulation that false alarms stay below
#   the level: on average for CRC, with high probability for the other rules.
# - We compared it with sequential tests on the same splits, with delays that treat a miss as a
#   miss.
# - We chose other statistics to threshold, and kept the guarantee by calibrating on sequences that
#   had not been learned from.
#
# **Limits.** Every promise assumes that future sequences are exchangeable with the calibration
# ones; nothing here protects against drift. The spread over splits is not a confidence interval,
# since splits share sequences. The miniature models are small stand-ins: their numbers illustrate
# the method and say nothing about large models.

# %% [markdown]
# ## Exercises
#
# 1. Set `ALPHA` to 0.05 and run again. Which rules fall silent on the miniature conversations, and
#    how many safe sequences would they need?
#    <details><summary>Answer</summary>The rules with the promise in high probability need 45
#    sequences at this level and delta 0.1, CRC needs 19. In <code>tiny</code> a fifth of the
#    sequences may hold fewer safe ones than that; <code>state</code> in the table
#    <code>metrics</code> tells.</details>
# 2. Name one of your own score files in `SCORES_FILE` with the wrong `ORIENTATION`. What happens to
#    false alarms, and what to power?
#    <details><summary>Answer</summary>False alarms still keep the level: the guarantee does not
#    know what the score means. Power falls below the level, which is the sign of a score that
#    points the wrong way.</details>
# 3. Change `SEED`. Which differences between methods keep their sign?
#    <details><summary>Answer</summary>The verdict calls a difference clear only if its interval
#    over sequences drawn anew excludes zero. Those should survive; the others need not.</details>
