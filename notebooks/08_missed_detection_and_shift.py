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
# # 8. Missed detections, and change
#
# > The same counting bounds what a monitor misses. Every promise ends where future sequences differ
# > from those that calibrated, and that can be noticed, and sometimes mended.
#
# *Paper: arXiv 2607.02510, section 4 (missed detections) and its limits. Cost: seconds in `tiny`,
# about a minute in `cpu`; no GPU is used.*

# %% [markdown]
# **You will learn**
# - Bound the share of unsafe sequences that a monitor misses, and see what that costs.
# - Find out whether one threshold can keep both promises, and why not.
# - Notice that sequences have changed, and mend a threshold where that is possible.
#
# **Reads** `steps`
#
# **Writes** `metrics`, `changes`
#
# **References**
# - [1] Schirmer et al., *Online Safety Monitoring for LLMs*, arXiv 2607.02510.
# - [2] Angelopoulos et al., *Conformal risk control*, ICLR 2024.
# - [3] Tibshirani et al., *Conformal prediction under covariate shift*, NeurIPS 2019.
# - [4] Vovk, *Testing randomness online*, Statistical Science 2021.
# - [5] Recorded verdicts of a GPT-5 monitor, `cue_coding` in `data/README.md`.

# %% tags=["parameters"]
PROFILE: str = "tiny"  # tiny, cpu or gpu: how large everything is
RUN_ID: str = "default"  # folder of the run under data/runs
SEED: int = 2026  # one seed for everything
ALPHA: float = 0.10  # target false alarm rate where things change
BETA: float = 0.30  # target miss rate shown in tables
RATE: float = 0.05  # chance of a false report that a detector of change may have

# %%
import numpy as np
import pandas as pd

from monitorlab import display
from monitorlab.chapters import shift as chapter
from monitorlab.evaluation import rates
from monitorlab.online import comparison, score_files
from monitorlab.pipeline.runs import open_run
from monitorlab.statistics import thresholds

# %%
for name, value in {"ALPHA": ALPHA, "BETA": BETA, "RATE": RATE}.items():
    chapter.check_level(value, name)
run = open_run(
    "08_missed_detection_and_shift",
    profile=PROFILE,
    run_id=RUN_ID,
    seed=SEED,
    parameters={"ALPHA": ALPHA, "BETA": BETA, "RATE": RATE},
)
display.use(run)
online = run.profile.online
scored = chapter.Scored.earlier(run)
main = [("miniature_math_strong", "verifier"), ("miniature_conversations", "guard")]

# %% [markdown]
# The scores are those of the notebook before, suspicion by step. If the published verifier scores
# are in the cache, the larger profiles use them beside the miniature.

# %% tags=["nbval-ignore-output"]
for name in ("math", "gsm8k"):
    source = f"evaluator/{name}.csv.gz"
    if online.open_tier and chapter.sources.available(source):
        data = score_files.load_evaluator(run.fetch(source), f"evaluator_{name}")
        scored[data.dataset, data.signal] = data
        main.append((data.dataset, data.signal))
titles = {key: chapter.sizes(scored[key]).replace(" (", "\n(", 1) for key in main}
display.table(pd.DataFrame({"sequences": [chapter.sizes(scored[key]) for key in main]}))

# %% [markdown]
# ## The method happens here
#
# Take nine unsafe sequences, and suppose that a monitor may miss a fifth of them. A sequence is
# missed if its peak does not pass the threshold, so a *higher* threshold misses more. Conformal
# risk control therefore asks for the highest threshold with
# $$\frac{n}{n+1} \hat R_{II}(\lambda) + \frac{1}{n+1} \le \epsilon, \qquad \text{([1], Eq. 8)}$$
# where $\hat R_{II}$ is the share of the $n$ unsafe calibration sequences that are missed. If none
# is missed the left side is 1/10, and if one is missed it is 2/10, which is just allowed. So the
# threshold lies just below the second smallest peak, and in general below the $k$-th smallest with
# $k = \lfloor \epsilon (n + 1) \rfloor$.

# %%
unsafe_peaks = np.array([0.62, 0.35, 0.91, 0.48, 0.77, 0.55, 0.83, 0.29, 0.70])
from_below = np.sort(unsafe_peaks)
k = int(0.2 * (len(unsafe_peaks) + 1))
print(f"sorted: {from_below.tolist()}, rank {k}: alarm just below {from_below[k - 1]}")

# %%
library = thresholds.calibrate(unsafe_peaks, level=0.2, risk="missed_detection")
assert library.value == np.nextafter(from_below[k - 1], 0), "the same threshold by hand"
missed = (unsafe_peaks <= library.value).sum()
print(f"the library: {library.value:.2f}, which misses {missed} of {len(unsafe_peaks)}")

# %% [markdown]
# ## What a bound on misses costs
#
# We repeat the protocol of the notebook before with the other risk. The threshold of each method is
# placed on the unsafe part of a random fifth of the sequences, for levels up to 0.9, and misses and
# false alarms are counted on the rest. Only the anytime form of the e-valuator is left out, since
# Ville's inequality says nothing of what is missed. The trivial baselines take part as before.

# %%
levels = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
methods = [method for method in comparison.ALL_METHODS if method.calibrator != comparison.VILLE]
results = pd.concat(
    comparison.compare_methods(
        scored[key],
        methods,
        comparison.random_splits(
            len(scored[key]), online.n_splits, online.calibration_fraction, SEED
        ),
        levels=sorted({*levels, BETA}),
        delta=online.delta,
        risk="missed_detection",
    )
    for key in main
)

# %%
fig = chapter.plot_protocol(
    results,
    titles,
    ["CRC", "UCB", "running mean + CRC", "EWMA + CRC", "learned + CRC"],
    "A bound on misses (miniature sets are small stand-ins)",
    measures=("miss", "far"),
)
display.show(
    fig,
    "08_misses",
    thumbnail=True,
    alt="Miss rate and false alarm rate against the target level of misses, for five methods, the "
    "trivial baselines and every data set.",
)

# %% [markdown]
# In the upper row every line should lie below the dashed diagonal, which is the promise. The lower
# row is the price. A method is better if its line there falls faster, since it keeps the same
# promise with fewer false alarms. At a small level a method that alarms on nearly everything has
# kept its promise, too. Dashed grey lines are the trivial baselines, and what does not lie below
# them in the lower row is not worth its price. The table has all methods, at one level.

# %%
shown = results[np.isclose(results["level"], BETA)]
shown = shown.assign(miss=1 - shown["power"]).groupby(["dataset", "method"], sort=False)
price = shown[["miss", "far", "restricted_delay"]].mean()
display.table(
    price.reset_index(), decimals=2, caption=f"Means over splits at a level of misses of {BETA:g}"
)

# %% [markdown]
# ## Both promises at once
#
# Suppose the false alarms need a threshold of at least 0.6, and the misses one of at most 0.7. Then
# every threshold between them keeps both promises. If the misses need one of at most 0.5, none
# does. Let $m$ of $n$ unsafe calibration peaks lie at or below the threshold of the false alarms.
# Conformal risk control promises a level of misses of $\epsilon$ at this threshold if its rank
# $\lfloor \epsilon(n+1) \rfloor$ is above $m$, hence from
# $$\epsilon_{II} = \frac{m + 1}{n + 1} \qquad (1)$$
# on. In the example above a threshold of 0.6 misses four of nine.

# %%
by_hand = (np.sum(unsafe_peaks <= 0.6) + 1) / (len(unsafe_peaks) + 1)
print(f"by hand: {by_hand}, the library: {thresholds.lowest_miss_level(0.6, unsafe_peaks)}")
assert by_hand == thresholds.lowest_miss_level(0.6, unsafe_peaks), "equation (1)"
higher = thresholds.calibrate(unsafe_peaks, by_hand, risk="missed_detection").value
assert higher >= 0.6, "at this level of misses the threshold may be as high as 0.6"

# %% [markdown]
# Now the same for all levels of false alarms, on all sequences of each set.

# %%
fig = chapter.plot_feasible(
    {titles[key]: scored[key] for key in main},
    "One threshold for both promises (miniature sets are small stand-ins)",
)
display.show(
    fig,
    "08_both",
    alt="For every level of false alarms the lowest level of misses that the same threshold keeps, "
    "a panel per data set.",
)

# %% [markdown]
# A point in the blue part is a pair of promises that one threshold keeps. In the orange part the
# score does not separate the two kinds of sequences well enough, and no calibration can help. A
# better score moves the border down. The border itself was read off these sequences, so a promise
# beside it may fail on others. Two thresholds with "unsure" between them are what remains there.

# %% [markdown]
# ## Sequences that hang together
#
# All promises assume that calibration and future sequences are exchangeable. Answers to one prompt
# are not, if the next one will be an answer to *another* prompt. Take 25 prompts with 16 safe
# answers each, where half of the variance of a peak belongs to its prompt. There are 400 sequences,
# but what they tell about new prompts is closer to what 25 would tell.

# %%
told = {
    alike: chapter.promises_by_group(25, 16, alike, 0.1, online.delta, 400, run.rng("prompts"))
    for alike in (0.0, 0.5)
}
display.table(
    pd.concat(told, names=["alike"]).reset_index("alike"),
    decimals=3,
    caption="True false alarm rates of 400 calibrations, independent and alike answers",
)

# %% [markdown]
# Look at the exact binomial rule, and compare *share above* with what it promises. For independent
# answers the promise holds. Where answers are alike it is broken far more often than it says. Rules
# that count prompts, by the mean share of their answers that alarm, keep their promise in both
# cases, and pay for it with fewer alarms. Name such groups in `COLUMNS` (`group:prompt`) when you
# bring scores of your own.

# %%
alike = told[0.5].set_index("rule")
spare = 4 * np.sqrt(0.09 / 400)
assert alike.loc["exact binomial, by sequence", "share above"] > online.delta + spare, (
    "answers that hang together must break the promise about single ones"
)
assert alike.loc["Hoeffding-Bentkus, by prompt", "share above"] <= online.delta + spare, (
    "counting prompts must mend it"
)
print("groups break the promise by sequence, and the rule by group keeps it")

# %% [markdown]
# ## A promise for each group
#
# A false alarm rate of a tenth may be a twentieth for short solutions and a fifth for long ones.
# Take four safe sequences with peaks 1, 2, 3 and 4 in one group, and four with 5, 6, 7 and 8 in
# another. At a level of 0.4 the rank is $\lfloor 0.4 \cdot 9 \rfloor = 3$, and all alarms above the
# third largest peak, 6, are in the second group. A threshold for each group, at rank
# $\lfloor 0.4 \cdot 5 \rfloor = 2$, lies at 3 and at 7, and each group has one alarm.
#
# Do longer solutions alarm more often here? Each has as many steps as its problem has operations,
# so the group is known when a sequence begins, as it must be.

# %% tags=["nbval-ignore-output"]
data = scored[main[0]]
halves = np.where(data.lengths > np.median(data.lengths), "longer", "shorter")
by_length = chapter.thresholds_by_group(data, halves, ALPHA, online.n_splits, SEED)
display.table(by_length, decimals=2, caption=f"{chapter.sizes(data)}, level {ALPHA:g}")

# %% [markdown]
# Look at the two rows of *one for all* first. Where they differ, the promise is kept on average
# only, and somebody with hard problems has more false alarms than we said. With a threshold of its
# own each group should be near the level, but for chance, and it has fewer sequences to calibrate
# on. `calibrate --per-group` does the same for your log.

# %% [markdown]
# ## What changes, and who notices
#
# The strong generator's sequences calibrate, and then something changes. Another generator answers,
# longer solutions, which belong to harder problems, become frequent, all scores of the verifier
# rise by half of their standard deviation, or unsafe sequences become more frequent. The sequences
# arrive without labels, and three detectors compare their peaks with those that calibrated.
#
# - The *conformal martingale* [4] bets against the ranks of new peaks being uniform. Its capital
#   exceeds $1/r$ with probability at most $r$ if nothing changes, however long it watches.
# - A rank-sum test of all peaks so far is repeated every 25 sequences at the rate $r$.
# - The same test at rates $r/(j(j+1))$ at look $j$, which add up to $r$.

# %%
strong, weak = (scored[f"miniature_math_{one}", "verifier"] for one in ("strong", "weak"))
plays = chapter.Plays.of(strong, online.plays)
scenes = chapter.Scene.of_generators(strong, weak)
detected, kept = plays.watch(scenes, ALPHA, RATE, run.rng("changes"))
report = detected.pivot(index="change", columns="detector", values="reported")
order = list(dict.fromkeys(detected["change"]))

# %% tags=["nbval-ignore-output"]
display.table(
    report.loc[order].reset_index(),
    decimals=2,
    caption=f"Share of {plays.number} plays in which a change was reported within "
    f"{plays.arriving} sequences (small stand-ins)",
)

# %% [markdown]
# Read the row *no change* first. A detector may report there in a share of plays of at most `RATE`,
# and the test that is repeated without a correction does so more often. Then compare the others
# row by row. How soon do they report, if they do? And what does the wait cost? Until the report, or
# to the end without one, safe sequences alarm and unsafe ones are missed under the threshold as it
# was calibrated. The column `allowed` is the level times the safe sequences that came until then.
# What `false_alarms` exceed it by is the risk that a change has added before anybody knew of it.

# %% tags=["nbval-ignore-output"]
display.table(
    detected.drop(columns="reported"),
    decimals=1,
    caption="Sequences until the report, median, and what had happened until then",
)

# %% [markdown]
# A change in the share of unsafe sequences is reported, too, although it breaks no promise about
# false alarms, which is about safe sequences alone. A detector without labels cannot tell the two
# apart. A report says that it is time to label some sequences.

# %% [markdown]
# ## What becomes of the promise
#
# The threshold that was calibrated once is compared with two others. The *rolling* one is
# calibrated anew on the latest safe sequences, half as many as calibrated at first, whose labels
# arrive late. The *weighted* one knows
# that longer solutions have become more frequent, and by how much. Each safe calibration sequence
# then counts by its weight [3], and the threshold is the lowest one with
# $$\sum_i w_i 1\{M_i > \lambda\} + \bar w \le \epsilon \Bigl(\sum_i w_i + \bar w\Bigr). \qquad (2)$$
# With three peaks of weight 1 and a level of one half, the right side is 2, so one peak may lie
# above the threshold. If the largest one weighs 2, none may.

# %%
for weights in ([1, 1, 1], [1, 1, 2]):
    value = thresholds.calibrate_weighted([0.1, 0.3, 0.5], weights, 0.5, heaviest=max(weights))
    print(f"weights {weights}: alarm above {value}")

# %%
fig = chapter.plot_kept(
    kept, ALPHA, f"After a change, level {ALPHA:g} (small stand-ins)"
)
display.show(
    fig,
    "08_changes",
    alt="False alarm rate and power after each change, for the threshold as calibrated, the "
    "rolling one and, where weights are known, the weighted one.",
)

# %% [markdown]
# On the left the marks should not lie to the right of the dashed line by more than their bars. Grey
# marks that do have lost their guarantee. On the right a mark further left than in the first row
# means that the monitor catches less than it did, even where its guarantee survived. The table has
# the numbers. Longer solutions are let in one by one here, and too few of them arrive to fill the
# rolling window, so that half of its sequences may still be old ones.

# %% tags=["nbval-ignore-output"]
display.table(kept, decimals=3, caption=f"After a change, level {ALPHA:g}, means over plays")

# %% tags=["nbval-ignore-output"]
now = kept.set_index(["change", "threshold"])
display.say(
    "As calibrated, the false alarm rate is {no:.2f} without a change, {generator:.2f} with "
    "another generator, {longer:.2f} with longer solutions and {verifier:.2f} with another "
    "verifier; the "
    "weighted threshold has {weighted:.2f} on longer solutions.",
    no=now.loc[("no change", "as calibrated"), "far"],
    generator=now.loc[("another generator", "as calibrated"), "far"],
    longer=now.loc[("longer solutions", "as calibrated"), "far"],
    verifier=now.loc[("another verifier", "as calibrated"), "far"],
    weighted=now.loc[("longer solutions", "weighted"), "far"],
)

# %% [markdown]
# ## A change that happened
#
# The changes so far were made by us. Here is one that was recorded [5]. GPT-5 watched coding agents
# and gave every answer a suspicion from 0 to 100, that a cue had swayed it. We calibrate its alarm
# to 5 % on the agents of one family, gpt-oss, and then agents of another family, OLMo, arrive. The
# row *hint or fact* is the trivial baseline. It alarms whenever the cue was a hint. An answer that
# was not judged is left out, and intervals are over the seven tasks.

# %%
recorded = run.has_open(chapter.recorded.GPT5_KEYS)
if recorded:
    cued, said = chapter.recorded.gpt5_verdicts(run.fetch)
    judged = rates.join(said, cued, ["family"]).query("status == 'parsed'")
    is_gpt5 = judged["monitor"] == chapter.recorded.GPT5
    known = judged[is_gpt5 & (judged["family"] == "gpt-oss")]
    cut = thresholds.calibrate(known.loc[known["label"] == 0, "score"], level=0.05).value
    alarmed = judged.assign(verdict=judged["score"] > (np.where(is_gpt5, cut, 0.5)))
    family = rates.rates(alarmed, by=("name", "family"), unit="scenario")
    display.table(
        display.spans(family, ["far", "mr"])[["name", "family", "far", "mr"]],
        caption=f"GPT-5 with its alarm above {cut:g}, calibrated on all gpt-oss agents",
    )

# %% [markdown]
# Compare the two rows of GPT-5. If the promise about false alarms survives and the miss rate does
# not, then *the guarantee holds and the monitor is dead*. Nothing in a bound on false alarms speaks
# of what is missed. Compare with the baseline, too. Would anybody have noticed, without a label? We
# let four fifths of the gpt-oss answers calibrate and the others, or those of OLMo, arrive, in many
# random orders.

# %% tags=["nbval-ignore-output"]
if recorded:
    first, second = (
        judged.loc[is_gpt5 & (judged["family"] == one), ["score", "label"]].to_numpy(float)
        for one in ("gpt-oss", "OLMo")
    )
    kinds = [
        chapter.Scene("no change", first),
        chapter.Scene("OLMo agents", first, after=second),
    ]
    half = chapter.Plays(4 * len(first) // 5, len(second), 25, online.plays)
    noticed, lasting = half.watch(kinds, 0.05, RATE, run.rng("recorded"))
    display.table(
        noticed.pivot(index="change", columns="detector", values="reported").reset_index(),
        decimals=2,
        caption="Share of plays in which a change was reported, from unlabelled scores of GPT-5",
    )

# %%
if recorded:
    fig = chapter.plot_kept(
        lasting, 0.05, "A recorded GPT-5 monitor, other agents, level 0.05"
    )
    display.show(
        fig,
        "08_recorded",
        alt="False alarm rate and power of a recorded monitor on the agents it was calibrated on "
        "and on agents of another family, for the threshold as calibrated and the rolling one.",
    )

# %% [markdown]
# Read the two rows from left to right. On the left both should stay near the dashed level. On the
# right the distance between the rows is what was lost, and a rolling threshold, which is calibrated
# anew on the agents that arrive, does not bring it back, because the score itself no longer tells
# the two kinds apart as well. Labels of a few unsafe answers are the only remedy. (Without the
# files of [5] this run draws no figure.)

# %% [markdown]
# ## Does it hold?
#
# A promise is only about the row without a change and about the weighted threshold. There the false
# alarm rate may exceed the level by chance alone. A rolling threshold whose window holds nothing
# but new sequences should be near the level, too.

# %%
for place in (("no change", "as calibrated"), ("longer solutions", "weighted")):
    row = now.loc[place]
    assert row["far"] <= ALPHA + 4 * row["far_error"], f"the promise must hold: {place}"
for change in ("another generator", "another verifier"):
    row = now.loc[(change, "rolling, labels late")]
    assert row["far"] <= ALPHA + 0.02 + 4 * row["far_error"], f"a full window must mend: {change}"
quiet = report.loc["no change"]
for name in ("conformal martingale", "rank-sum test, corrected looks"):
    limit = RATE + 4 * np.sqrt(RATE * (1 - RATE) / plays.number)
    assert quiet[name] <= limit, f"{name} must report rarely where nothing changed"
rows = len(main) * len(methods) * len({*levels, BETA}) * online.n_splits
assert len(results) == rows, "one row per data set, method, level and split"
print("promises hold where their assumption does, and detectors keep their rate")

# %% [markdown]
# ## Writing the outputs

# %%
run.write_table("metrics", results[chapter.SCHEMAS["metrics"].columns])
run.write_table("changes", kept[chapter.SCHEMAS["changes"].columns])
display.headline(
    f"{now.loc[('another verifier', 'as calibrated'), 'far']:.2f}",
    f"false alarm rate of a threshold for {ALPHA:g} after the verifier changed",
)
run.close()

# %% [markdown]
# ## What we saw
#
# - We bounded the share of unsafe sequences that are missed, and saw its price in false alarms.
# - We found out which pairs of promises one threshold can keep, from how many unsafe peaks lie
#   below it.
# - We noticed changes without labels, and mended thresholds where weights were known or labels came
#   late.
# - With the files of [5] we saw a guarantee survive on agents on which its monitor had lost power.
#
# **Limits.** The changes are made of a miniature of small stand-ins. A rolling threshold keeps no
# promise while the change is under way. Weights are known here, and an estimate of them would add
# its own error. That a detector is silent does not mean that nothing has changed.

# %% [markdown]
# ## Exercises
#
# 1. Set `BETA` to 0.05. Which methods can promise it on the conversations, and what do the others
#    do?
#    <details><summary>Answer</summary>CRC needs 19 unsafe calibration sequences at this level, and
#    the rules with a high probability 45. With fewer the only rule that keeps the promise alarms
#    always, which misses nothing.</details>
# 2. Why does the false alarm rate hardly change where unsafe sequences become more frequent?
#    <details><summary>Answer</summary>It is a rate among safe sequences, and those have not
#    changed. What changes is how many of the alarms are right.</details>
# 3. Set `RATE` to 0.01. What becomes of the time until a report?
#    <details><summary>Answer</summary>It grows, though not fivefold. The capital of the martingale
#    grows exponentially while a change lasts, so five times as much capital takes only a constant
#    number of further sequences.</details>
