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
# - Compare it with sequential tests and with trivial baselines, on the same splits.
# - Choose a better statistic to threshold, without losing the guarantee.
# - Tell an alarm that detects an error from one that predicts it, on real sequences.
#
# **Reads** `steps` (not needed with `SCORES_FILE`)
#
# **Writes** `thresholds`, `metrics`
#
# **References**
# - [1] Schirmer et al., *Online Safety Monitoring for LLMs*, arXiv 2607.02510.
# - [2] Sadhuka et al., *E-valuator*, arXiv 2512.03109.
# - [3] Bates et al., *Distribution-free, risk-controlling prediction sets*, J. ACM 2021.
# - [4] Page, *Continuous inspection schemes*, Biometrika 1954.
# - [5] Zheng et al., *ProcessBench*, arXiv 2412.06559.
# - [6] Yao et al., *tau-bench*, arXiv 2406.12045.

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
from monitorlab.chapters import online as chapter
from monitorlab.online import comparison, metrics, score_files
from monitorlab.pipeline.runs import open_run
from monitorlab.statistics import ranks, thresholds

# %%
chapter.check_level(ALPHA, "ALPHA")  # bad input ends here, before anything is written
own = (
    score_files.load_signals(SCORES_FILE, ORIENTATION, columns=COLUMNS, positive=POSITIVE)
    if SCORES_FILE
    else []
)
for data in own:
    data.require_two_classes()
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
scored = chapter.Scored.earlier(run, needed=not own)

# %% [markdown]
# ## The data
#
# A solution of four lines, scored after every line, is a sequence of four step scores. The score is
# *suspicion*, so a high one means unsafe (the paper's safety score is minus ours). The label says
# how the sequence ended. It is 1 if it ended unsafe, for instance with a wrong final answer or with
# a rule that was given away.
#
# The miniature sets come from the previous notebook, where small stand-ins for large models were
# trained that really generate and really err. If the published sets of real verifier scores are in
# the cache, two of them join in the larger profiles, and so does a file of your own if you named
# one.

# %% tags=["nbval-ignore-output"]
for name in ("math", "gsm8k"):
    source = f"evaluator/{name}.csv.gz"
    if online.open_tier and chapter.sources.available(source):
        published = score_files.load_evaluator(run.fetch(source), f"evaluator_{name}")
        scored.add([published])
if own:
    run.record_file(SCORES_FILE)
    own = scored.add(own)
display.table(scored.overview(), decimals=3)

# %% [markdown]
# The column `steps` is the mean length of a sequence. The column `distinct scores` tells how coarse
# the signal is. A verifier that answers in steps of 0.05 has only about twenty values, and ties
# will matter below.

# %% [markdown]
# ## What an alarm is
#
# Take the scores 0.2, 0.7, 0.4 and a threshold of 0.5. The monitor alarms at the second step, the
# first one whose score passes the threshold,
# $$t_{\mathrm{alarm}} = \min\{t : s_t > \lambda\}.$$
# So a sequence alarms exactly if its *peak* $M = \max_t s_t$ passes the threshold. Here the peak is
# 0.7. The false alarm rate is $R_I(\lambda) = P(M > \lambda \mid \text{safe})$. It falls as the
# threshold rises, and on a set of sequences it changes only where a safe peak lies.

# %% [markdown]
# ## The method happens here
#
# Take eight safe sequences for calibration, sort their peaks, and allow false alarms in a quarter
# of all safe sequences, $\epsilon = 0.25$. Conformal risk control asks for the lowest threshold
# with
# $$\frac{n}{n+1} \hat R(\lambda) + \frac{1}{n+1} \le \epsilon, \qquad \text{([1], Eq. 8)}$$
# where $\hat R$ is the share of the $n$ calibration sequences that alarm. Above the largest peak
# nobody alarms, and the left side is 1/9. Above the second largest peak one sequence alarms, and it
# is 2/9, still below 0.25. Above the third largest it is 3/9, which is too much. So the threshold
# is the second largest peak, and in general the $k$-th largest with
# $k = \lfloor \epsilon (n + 1) \rfloor$. This keeps $E[R_I] \le \epsilon$ over the draw of the
# calibration set, if calibration and future sequences are exchangeable.

# %%
peaks = np.array([0.55, 0.31, 0.08, 0.72, 0.26, 0.40, 0.19, 0.93])
from_the_top = np.sort(peaks)[::-1]
k = int(0.25 * (len(peaks) + 1))
by_hand = from_the_top[k - 1]
print(f"sorted: {from_the_top.tolist()}, rank {k}: alarm above {by_hand}")

# %%
library = thresholds.calibrate(peaks, level=0.25)
display.say("{answer}", answer=library.explain())
assert library.value == by_hand, "by hand and by the library: the same threshold"

# %% [markdown]
# At level 0.10 the rank would be $\lfloor 0.1 \cdot 9 \rfloor = 0$, and there is no such peak. The
# only rule that keeps this promise with eight sequences is one that never alarms. The calibrator
# says so, and says how many sequences it needs.

# %%
display.say("{answer}", answer=thresholds.calibrate(peaks, level=0.10).explain())

# %% [markdown]
# CRC keeps its promise on average over calibration sets. A stricter promise is that the false alarm
# rate stays below the level with probability $1 - \delta$ over calibration sets. With 22 safe
# sequences and $\epsilon = \delta = 0.1$ the exact binomial test reasons as follows. If the true
# rate were 0.1, none of the 22 would alarm with probability $0.9^{22} \approx 0.098$, which is
# below $\delta$, so a threshold at which none alarms is safe enough. In general the rank is
# $k = c^* + 1$ with $c^* = \max\{c : P(\mathrm{Bin}(n, \epsilon) \le c) \le \delta\}$ [3]. The
# paper's UCB uses the Hoeffding-Bentkus bound in place of the binomial tail. That bound also holds
# for losses other than zero and one, and for zero and one it is never tighter.

# %%
price_list = pd.DataFrame(
    {
        "n": n,
        "CRC": ranks.RANK_RULES["crc"](n, 0.10, online.delta),
        "exact binomial": ranks.RANK_RULES["binomial"](n, 0.10, online.delta),
        "UCB": ranks.RANK_RULES["hoeffding_bentkus"](n, 0.10, online.delta),
    }
    for n in (9, 22, 50, 100, 500, 1000, 5000)
)
display.table(
    price_list, caption="Rank k at level 0.10, delta 0.1; 0 means never alarm"
)

# %% [markdown]
# Read a row from left to right to see what the stricter promise costs. A rule of rank $k$ lets
# $k - 1$ of the $n$ calibration sequences alarm, so a lower rank means fewer alarms and less power.
# As shares of $n$ the ranks come closer to each other slowly, with the square root of $n$.

# %% [markdown]
# ## Does it hold?
#
# Without ties the risk of rank $k$ has a Beta$(k, n + 1 - k)$ distribution, whatever the score. So
# we may check the promises on uniform random numbers. We calibrate 4,000 times on $n = 66$ safe
# sequences, and the risk of a threshold is the chance that a new uniform number lies above it.

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
# CRC promises only that the mean risk is at most 0.10. A single calibration may exceed the level,
# and the table shows how often that happens. The other two rules promise that it happens in at most
# a tenth of the calibrations. If you calibrate once and then rely on it, you want the second kind
# of promise. If you calibrate again and again, the first kind may be enough.

# %% [markdown]
# ## An alarm, seen from close up
#
# We calibrate a threshold on a fifth of the sequences of one data set and look at four sequences
# from the rest.

# %% tags=["nbval-ignore-output"]
example = own[0] if own else scored["miniature_math_strong", "verifier"]
share = online.calibration_fraction
calibrating, testing = next(comparison.random_splits(len(example), 1, share, SEED))
held_out, chosen = example.take(testing), example.take(calibrating)
safe_peaks = metrics.peaks(chosen.take(chosen.labels == 0))
threshold = thresholds.calibrate(safe_peaks, ALPHA)
display.say(
    "Data set {name}: {text}", name=chapter.sizes(example), text=threshold.explain()
)

# %%
fig = chapter.plot_examples(
    held_out, threshold, f"Until the alarm: {example.name}"
)
display.show(
    fig,
    "07_examples",
    alt="Suspicion by step of a few held-out sequences, safe and unsafe, with the "
    "calibrated threshold dashed and a ring at the first step above it.",
)

# %% [markdown]
# Suspicion grows upwards, the dashed line is the threshold, and a ring marks the alarm. A blue
# (safe) sequence should stay below the line, and an orange (unsafe) one should cross it, the
# earlier the better.

# %% [markdown]
# ## Another method, a likelihood ratio
#
# Four sequences cannot show how often an alarm is right. Before we count over many splits, we need
# the method that the paper compares with. Suppose a step score of 0.8 occurs twice as often in
# unsafe sequences as in safe ones. Then this score is evidence for danger, with a likelihood ratio
# of 2. If the steps are independent, the ratios of the steps seen so far multiply. The e-valuator
# [2] estimates their product directly, from a classifier that reads all scores up to step $t$,
# $$M_t = \frac{p(\text{unsafe} \mid s_{1:t})}{p(\text{safe} \mid s_{1:t})}
#        \cdot \frac{p(\text{safe})}{p(\text{unsafe})}. \qquad \text{([2], §3.2)}$$
# Its *anytime* form alarms as soon as $M_t > 1/\epsilon$. If the ratio is exact, a safe sequence
# does that at any time with probability at most $\epsilon$ (Ville's inequality). Multiply three
# ratios, and compare with the library's alarm at level 0.10.

# %%
ratios = np.array([0.5, 4.0, 6.0])  # of the steps one by one
product = [0.5, 0.5 * 4.0, 0.5 * 4.0 * 6.0]
alarm_by_hand = next(t for t, value in enumerate(product, 1) if value > 1 / 0.10)
(alarm,) = metrics.alarm_steps(np.cumprod(ratios)[None], 1 / 0.10)
print(f"M = {product}: alarm at step {alarm_by_hand}, the library at step {alarm}")
assert alarm == alarm_by_hand, "by hand and by the library: the same step"

# %% [markdown]
# ## Three trivial baselines
#
# Before we praise a method, we ask what one gets for nothing. The first baseline is the threshold
# itself, with ties broken by a draw (the section on ties below explains how). The second reads the
# first score and nothing after it. It says how hard the problem looked at the outset, so what it
# catches is *predicted*, and no step can have been detected. The third reads no score at all, and
# alarms once a sequence is long. All three keep the same guarantee, since the calibrator takes any
# statistic of the past.

# %%
walk = np.array([[0.2, 0.7, 0.4]])
for method in comparison.TRIVIAL_METHODS:
    values = method.statistic.fit(None)(walk)[0]
    print(f"{method.label}: {values.tolist()}")

# %% [markdown]
# The three rows are what each baseline compares with its threshold at steps 1, 2 and 3. A method is
# worth its price only where it beats all of them.

# %% [markdown]
# ## The comparison
#
# The *PAC* form of the e-valuator makes no use of Ville's inequality. It learns the ratio on half
# of the calibration set and puts a tolerance limit on the other half. We compare both forms with
# the thresholds by the paper's protocol. A fifth of the sequences calibrates and the rest counts,
# over several random splits and six levels, and all methods get the same splits.

# %%
compared = [
    comparison.compare_resampled(
        data,
        comparison.ALL_METHODS,
        comparison.random_splits(len(data), online.n_splits, share, SEED),
        level=ALPHA,
        levels=online.levels,
        delta=online.delta,
    )
    for data in display.progress(list(scored.values()), "comparing")
]
results, resamples = map(pd.concat, zip(*compared, strict=True))

# %% [markdown]
# The figures below show the main signal of each data set. First we check that no row is missing.

# %%
main = {
    key: chapter.sizes(data)
    for key, data in scored.items()
    if not (data.stand_in and data.signal in chapter.FREE_SIGNALS)
}
expected = len(scored) * len(comparison.ALL_METHODS) * online.n_splits
assert len(results) == expected * len({*online.levels, ALPHA}), (
    "one row per method, level, split"
)
print(f"{len(comparison.ALL_METHODS)} methods, {online.n_splits} splits: every cell is there")

# %% [markdown]
# ### Reasoning with two generators of different strength
#
# The first figure is about solutions of arithmetic problems, scored by the verifier. It has one
# column for each generator and one row for each measure.
#
# For these problems the first wrong step is known. The third row counts an unsafe sequence as
# caught only if the alarm comes *at or after* that step, since an earlier alarm is a prediction.
#
# The paper's delay, in the fourth row, averages over *detected* sequences only. A monitor that
# detects one easy sequence at once and misses all others has a short delay by this measure. The
# restricted delay in the last row counts a miss as the full length of the sequence, so that all
# methods are compared on the same sequences.

# %%
paper = [method.label for method in comparison.PAPER_METHODS]
math_panels = {
    key: name
    for key, name in main.items()
    if scored[key].stand_in and key[1] == "verifier"
}
if math_panels:
    fig = chapter.plot_protocol(
        results,
        math_panels,
        paper,
        "Math, small stand-in generators and verifier",
        measures=("far", "power", "after_onset", "delay", "restricted_delay"),
    )
    display.show(
        fig,
        "07_math",
        alt="False alarms, power, share caught at or after the first wrong step and delays "
        "against the target level for CRC, UCB, two e-valuator tests and three trivial "
        "baselines, on miniature math with a strong and a weak generator.",
    )

# %% [markdown]
# Each line is a method, and its band spans the tenth to the ninetieth percentile over splits. The
# dashed grey lines are the trivial baselines. In the first row the dashed diagonal is the promise,
# and the mean false alarm rate should lie below it, but not far. In the second and third row higher
# is better, in the two rows of delays lower is better. Where a grey line is the best in a row, the
# methods above it are not worth their price there.

# %% [markdown]
# ### Conversations in which the assistant may break its rule
#
# The same monitors now watch dialogues in which an assistant may give something to somebody who may
# not have it, scored turn by turn by the small guard. An alarm after the rule was broken still
# counts as a detection, so the delay matters even more here.

# %%
talk = {
    key: name
    for key, name in main.items()
    if scored[key].stand_in and key[1] == "guard"
}
if talk:
    fig = chapter.plot_protocol(
        results,
        talk,
        paper,
        "Conversations, small stand-in guard",
        measures=("far", "power", "by_half", "restricted_delay"),
    )
    display.show(
        fig,
        "07_conversations",
        alt="False alarms, power, share caught by half of the steps and restricted delay "
        "against the target level for the paper's four methods and the trivial baselines on "
        "miniature conversations scored by the small guard.",
    )

# %% [markdown]
# Read this figure as the one before. The method to look for keeps its first line below the dashed
# diagonal, has high power, and has a low restricted delay.

# %% [markdown]
# ### Real verifier scores, and your own
#
# We draw the same figure for every set that comes from outside. These are published scores of a
# process reward model on MATH and of a judge on GSM8K, if the profile uses them and they are in the
# cache, and the file that you brought. Nothing is drawn if there is none.

# %%
outside = {key: name for key, name in main.items() if not scored[key].stand_in}
if outside:
    fig = chapter.plot_protocol(
        results, outside, paper, "Scores from outside this repository"
    )
    display.show(
        fig,
        "07_outside",
        alt="False alarms, power and delays against the target level for the paper's "
        "four methods and the trivial baselines on data sets from outside this repository.",
    )
else:
    print("no data set from outside in this run")

# %% [markdown]
# The rows and colours are those of the first figure. Compare the lines with the dashed diagonal
# first, since power and delay mean little for a method that breaks its level.

# %% [markdown]
# ### The numbers, data set by data set
#
# Each entry is a mean over splits, with the tenth and ninetieth percentile in brackets. The column
# *guarantee* is what a rule promises about the false alarm rate $R$, and the column after it says
# where the rule is defined. *At or after onset* appears where the first wrong step is known, and
# *by half* is the share of unsafe sequences with an alarm in the first half of their steps. Delays
# are given as shares of the steps / of the tokens.

# %% tags=["nbval-ignore-output"]
by_data = {key: chapter.Comparison(results, resamples, *key, ALPHA) for key in main}
for key, name in main.items():
    display.table(
        by_data[key].table(comparison.ALL_METHODS), caption=f"{name}, level {ALPHA:g}"
    )

# %% [markdown]
# ### The verdict in words
#
# The sentences below are computed from the tables. A method is said to keep its level unless a
# t-test over splits, at one percent, finds its mean false alarm rate above it. The splits share
# their sequences, so they cannot tell whether a difference between two methods would also be there
# on other sequences. For that, all sequences are drawn anew three hundred times and every threshold
# is placed again. A difference is called clear only if its 95 percent interval excludes zero, and
# nothing is concluded from fewer than ten sequences of a class. A method is called better than the
# trivial baselines only if it is clearly better than the best of them in power or in restricted
# delay, and clearly worse in neither.

# %% tags=["nbval-ignore-output"]
for key in main:
    sentences = by_data[key].verdict(comparison.ALL_METHODS)
    display.say("**{name}.** {text}", name=scored[key].name, text=" ".join(sentences))

# %% [markdown]
# ## Which statistic should be thresholded?
#
# Take the scores 0.2, 0.6, 0.4. One may compare the latest score with a threshold at each step, or
# the running mean, which is 0.2, 0.4, 0.4. The calibrator sees only peaks, and it makes the same
# promise for any statistic that depends on nothing but the past. So one may also threshold an
# exponentially weighted mean, a cumulative sum [4], the e-valuator ratio or a learned statistic.
# Ours is the log odds of danger given a few numbers about the sequence so far, such as the score,
# its running maximum, minimum and mean, the first score and the step.
#
# Only safe sequences calibrate, so every unsafe one of the calibration set may be learned from, and
# half of the safe ones. The other half of the safe ones calibrates. It was not touched by the
# learning, so it is exchangeable with future safe sequences, whatever was learned.
#
# Three more statistics are *chosen*. Each takes the candidate that five-fold cross-validation
# prefers on the part that is learned from, for an objective that we state beforehand, namely power,
# the share caught by half of the steps, or a restricted delay. In the last one a miss counts as
# several lengths. Counted as one length, the best answer would often be to read the first score
# and then give up.

# %%
fig = chapter.plot_trade_off(
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
# Each mark is one method, and up and to the left is better. The arms span the tenth to the
# ninetieth percentile over splits. The grey marks with three arms are the trivial baselines. Look
# for methods that stand above and to the left of all three, on every panel.

# %% [markdown]
# An early alarm may owe part of its success to how hard the problem looked at the first step. That
# is a legitimate use of the score, but it predicts an error instead of detecting one, and the mark
# of the first score alone shows how far prediction gets. If your alarm should point to the step
# that went wrong, compare the column *at or after onset* above.

# %% [markdown]
# ## Is the verifier worth its price?
#
# We repeat the paper's ablation. It keeps the CRC threshold and replaces the verifier by a signal
# that costs nothing, the lowest or the mean token log-probability of each step. All three signals
# have the same guarantee, so what a better signal gives is power and an earlier alarm.

# %%
math_names = {key[0]: name for key, name in math_panels.items()}
if math_names:
    fig = chapter.plot_signals(
        results, math_names, "CRC", "Verifier against log-probability, small stand-ins"
    )
    display.show(
        fig,
        "07_signals",
        alt="Power and restricted delay of the CRC threshold against the target level, "
        "under the verifier and the minimum and mean token log-probability, beside the "
        "trivial baselines, both generators.",
    )

# %% [markdown]
# Higher is better in the upper row and lower in the lower one, bands span the splits, and dashed
# lines are the trivial baselines on the first signal of the legend. Where the verifier's line for
# power lies above the others, the gap is what it is worth. Where it lies below, the free signal was
# the better choice, as it may be for models that mostly slip and are seldom sure of an error.

# %% [markdown]
# ## Ties
#
# Suppose four of the safe peaks are all 0.9, and the level allows two of them to alarm. A threshold
# below 0.9 lets all four alarm and one at 0.9 none, so part of the level stays unused. One seeded
# random draw per sequence can break the tie and use the whole level, and then the alarm depends on
# chance. The last row of the table rounds the scores of the first data set to steps of 0.05, as a
# judge would give them.

# %% tags=["nbval-ignore-output"]
first = next(iter(main))
tested = [scored[key] for key in main] + [scored[first].rounded(step=0.05)]
draws = display.progress(tested, "with and without ties")
ties = pd.DataFrame(
    chapter.tie_effect(
        data, ALPHA, comparison.random_splits(len(data), online.n_splits, share, SEED)
    )
    for data in draws
)
display.table(ties, caption=f"CRC at level {ALPHA:g}: ties on the safe side, and drawn")

# %% [markdown]
# The column *attained* is the share of safe calibration sequences that alarm at the threshold.
# Without ties it is just below the level. The fewer distinct scores there are, the more a draw can
# gain.

# %% [markdown]
# ## Real sequences with a known onset
#
# All so far was about sequences made in this repository, or about scores whose sequences nobody
# marked step by step. Two public sets say where a sequence went wrong. In *ProcessBench* [5] people
# marked the first wrong step of solutions that language models wrote for grade-school problems. In
# *tau-bench* [6] an airline agent obeys a policy and calls tools, and its onset is the first call
# that changes the data base and is not among the reference's calls.
#
# We did not want a strong verifier here, but honest and cheap signals. For ProcessBench it is the
# lowest token log-probability of each step under SmolLM2, a model of 135 million parameters. For
# tau-bench it is the *kind* of action, where words count 0, a call that only reads counts 1, one
# that changes data counts 2, and one that changes data without a "yes" from the user counts 3. That
# signal knows where something can go wrong, and nothing of whether it did. Some references of
# tau-bench are wrong. We left out the tasks whose reference none of the recorded trials reached,
# which also loses tasks that are merely hard.

# %%
real = chapter.Scored.released(run)
display.table(real.overview(), decimals=3)

# %% [markdown]
# An alarm before the onset cannot have seen the error, so it is a prediction. Take four solutions
# that went wrong, and let the first alarm at step 1, the second at step 2, the third at its last
# step, and the fourth never. We count by hand how many were caught *at or after* the onset and how
# many *by half* of their steps, and average the share of the steps that had passed, with a miss
# as 1.

# %%
data = next(iter(real.values()))
four = data.take(np.flatnonzero((data.labels == 1) & (data.lengths > 2))[:4])
alarms = np.array([1, 2, four.lengths[2], 0])
passed = np.where(alarms > 0, alarms / four.lengths, 1.0)
by_hand = (
    np.mean(alarms >= four.onsets),
    np.mean((alarms > 0) & (passed <= 0.5)),
    np.mean(passed),
)
found = metrics.alarm_metrics(alarms, four)
print(f"onsets {four.onsets.tolist()} of {four.lengths.tolist()} steps, alarms {alarms.tolist()}")
print("at or after {:.2f}, by half {:.2f}, restricted delay {:.2f}".format(*by_hand))
assert by_hand == (found.after_onset, found.by_half, found.restricted_delay)

# %% [markdown]
# Now the comparison. There are few sequences, so half of them calibrates. To see how far the
# results depend on the sequences, all of them are drawn anew with replacement, solutions of one
# problem and trials of one task together.

# %%
methods = (*comparison.PAPER_METHODS, *comparison.TRIVIAL_METHODS)
compared = [
    comparison.compare_resampled(
        data,
        methods,
        comparison.random_splits(len(data), online.n_splits, 0.5, SEED),
        level=ALPHA,
        levels=online.levels,
        delta=online.delta,
    )
    for data in real.values()
]
real_results, real_resamples = map(pd.concat, zip(*compared, strict=True))

# %% tags=["nbval-ignore-output"]
known = {
    key: chapter.Comparison(real_results, real_resamples, *key, ALPHA) for key in real
}
for key, data in real.items():
    display.table(
        known[key].intervals(methods),
        caption=f"{chapter.sizes(data)}, level {ALPHA:g}",
    )

# %% [markdown]
# Each entry is a mean over splits, with a 95 percent interval over sequences drawn anew. Read the
# last three rows first. *First score only* alarms before most onsets, so whatever power it has is
# mostly prediction, and the column *at or after onset* takes it away. *Step number only* alarms
# once a sequence is long, so it comes after most onsets and shows what patience alone is worth; its
# restricted delay tells how late it is. No column may stand alone. The threshold with *ties drawn*
# is the fair form of the paper's for the coarse signal of tau-bench, where four values make many
# ties. A signal helps to detect errors if a threshold on it catches more at or after the onset than
# the first score does, and no less than the step number does later, at false alarms that keep the
# level. Where intervals overlap widely, these sequences cannot tell.

# %%
fig = chapter.plot_protocol(
    real_results,
    {key: chapter.sizes(data) for key, data in real.items()},
    paper,
    "Real sequences with a known onset",
    measures=("far", "power", "after_onset"),
)
display.show(
    fig,
    "07_onset",
    alt="False alarms, power and share caught at or after the onset against the target level "
    "for the paper's four methods and the trivial baselines, on ProcessBench and tau-bench.",
)

# %% [markdown]
# Rows and colours are those of the figures above. Compare the second row with the third, which is
# about unsafe sequences with a known onset only. What a line loses from one to the other came too
# early to be detection. In ProcessBench every unsafe solution has an onset, so there the two rows
# are about the same sequences.

# %% tags=["nbval-ignore-output"]
for key, data in real.items():
    sentences = known[key].verdict(methods)
    display.say("**{name}.** {text}", name=data.name, text=" ".join(sentences))

# %% [markdown]
# The sentences above are about power and delay. Whether the threshold *detects* more than a trivial
# baseline is a question about the third row, and since both met the same draws, their difference is
# known better than either of them.

# %% tags=["nbval-ignore-output"]
for key, data in real.items():
    for baseline in ("first score only", "step number only"):
        gap = known[key].difference("CRC, ties drawn", baseline, "after_onset")
        display.say(
            "**{name}.** At or after the onset the threshold caught, against {baseline}: {gap}.",
            name=data.name,
            baseline=baseline,
            gap=gap.phrase("more", "less"),
        )

# %% [markdown]
# ## Writing the outputs
#
# Both tables have one row per data set, signal, statistic, calibrator, level and split, for an
# analysis of your own.

# %%
everything = pd.concat([results, real_results])
for name in ("thresholds", "metrics"):
    run.write_table(name, everything[chapter.SCHEMAS[name].columns])
print("wrote thresholds and metrics:", ", ".join(chapter.SCHEMAS["metrics"].columns[7:]))

# %% [markdown]
# The report page shows one number of this notebook, what the statistic chosen for delay gains in
# power over reading the first score only.

# %%
run.write_metrics(chapter.Comparison.headlines(results, ALPHA))
best = by_data[first].difference("chosen for delay + CRC", "first score only", "power")
display.headline(
    f"{best.mean:+.2f}",
    f"power, statistic chosen for delay minus first score only, level {ALPHA:g}",
)
run.close()

# %% [markdown]
# ## What we saw
#
# - We placed an alarm threshold by counting, and checked by simulation that false alarms stay below
#   the level, on average for CRC and with high probability for the other rules.
# - We compared it with sequential tests and with three trivial baselines on the same splits, with
#   delays that treat a miss as a miss, and counted what was caught at or after the onset.
# - We chose other statistics to threshold, and kept the guarantee by calibrating on sequences that
#   had not been learned from.
# - We judged alarms at or after the onset on real sequences, and saw what the first score alone
#   loses there.
#
# **Limits.** Every promise assumes that future sequences are exchangeable with the calibration
# ones, and nothing here protects against drift. The spread over splits is not a confidence
# interval, since splits share sequences. The miniature models are small stand-ins, so their numbers
# illustrate the method and say nothing about large models. The real sequences are few, and their
# signals are cheap on purpose; a strong verifier may look quite different.

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
#    <details><summary>Answer</summary>False alarms still keep the level, because the guarantee
#    holds whatever the score means. Power falls below the level, which is the sign of a score that
#    points the wrong way.</details>
# 3. Change `SEED`. Which differences between methods keep their sign?
#    <details><summary>Answer</summary>The verdict calls a difference clear only if its interval
#    over sequences drawn anew excludes zero. Those should survive; the others need not.</details>
