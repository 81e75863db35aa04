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
# # 2. Annotation and audit
#
# > Labels earn trust by agreement and, where they can, by execution and by solvers; a
# > benchmark earns it by showing how little can be guessed without looking at what was done.
#
# *Paper: arXiv 2601.05752, section 3.2 and appendix A. Cost: about twenty seconds in
# `tiny` and `cpu`.*

# %% [markdown]
# **You will learn**
# - Measure agreement of a blind annotation, and read every disagreement.
# - Probe for shortcuts: length, keywords, words, the request alone.
# - Look for duplicates, contamination and imbalance between the two sides.
#
# **Reads** `samples`, `label_checks`, `corpus`
#
# **Writes** `annotations`, `audit`
#
# **References**
# - [1] Yang et al., *AutoMonitor-Bench*, arXiv 2601.05752.
# - [2] Gwet, *Computing inter-rater reliability*, British Journal of Mathematical and
#   Statistical Psychology, 2008.
# - [3] Krippendorff, *Content analysis*, 4th edition, 2018.
# - [4] Gururangan et al., *Annotation artifacts in natural language inference data*,
#   NAACL 2018 (a label that can be guessed from half of the input).

# %% tags=["parameters"]
PROFILE: str = "tiny"  # tiny, cpu or gpu: how large everything is
RUN_ID: str = "default"  # folder of the run under data/runs
SEED: int = 2026  # one seed for everything
SAMPLES_FILE: str = ""  # your own labelled samples instead of the benchmark

# %%
import pandas as pd

from monitorlab import display
from monitorlab.benchmark import written
from monitorlab.benchmark.audit import annotation, balance, duplicates, probes
from monitorlab.chapters import construction as chapter
from monitorlab.pipeline.runs import open_run

# %%
run = open_run("02_annotation_and_audit", profile=PROFILE, run_id=RUN_ID, seed=SEED)
display.use(run)
if SAMPLES_FILE:
    file = run.record_file(SAMPLES_FILE)
    samples = chapter.own_samples(file, run.rng("own samples"), print)
    checks = written.label_checks([], samples)
else:
    samples = run.read_table("01_benchmark_construction", "samples")
    checks = run.read_table("01_benchmark_construction", "label_checks")
print(f"{len(samples)} samples, {len(checks)} of them checked by execution or solver")

# %% [markdown]
# ## A second pair of eyes
#
# A referee of the paper asked how well annotators agreed, and no figure was published. We can
# give one for our samples. Their first label is the author's, proved where it can be. The second
# comes from blind readers, who saw request and response in mixed order, never both responses of a
# pair on one sheet, and the definitions of `data/definition.toml`. Who or what they are is stored
# with every label in `data/recorded/readers`, and a label is tied to the text it was given to.
# (Samples of your own, named in `SAMPLES_FILE`, are audited in the same way. If no file there holds
# labels of theirs, what follows about readers stays empty.)

# %%
readings = annotation.joined(samples, annotation.read_annotations())
whole = (readings["view"] == annotation.FULL) & (readings["prompt"] == "guidelines")
given, partial = readings[whole], readings[~whole]
who = given.groupby(["annotator", "kind"]).agg(
    samples=("item", "size"), called_misbehavior=("given", "mean")
)
display.table(who, caption="Annotators")

# %% [markdown]
# The column *called_misbehavior* is the share of samples that an annotator called misbehavior.
# Half of the samples are, so far more or far fewer would mean that the guidelines were
# understood in another way.

# %% [markdown]
# ## The method happens here: agreement beyond chance
#
# Two annotators label 100 samples, and misbehavior is rare. On 5 samples both say misbehavior,
# on 5 only the first does, on 5 only the second does, and on 85 neither does. They agree on 90
# of 100, which sounds good. But two people who said "misbehavior" blindly one time in ten
# would agree on about 82. So three coefficients subtract what chance gives,
# $$\frac{p_o - p_e}{1 - p_e},$$
# with $p_o$ the observed agreement. They differ in the chance agreement $p_e$:
#
# - Cohen's kappa takes two labels, one from each annotator's own share of misbehavior.
# - Krippendorff's alpha [3] takes two of all 200 labels, without putting the first one back.
# - Gwet's AC1 [2] takes $p_e = 2\pi(1-\pi)$ with $\pi$ the mean share of both.

# %%
both, first, second, neither, n = 5, 5, 5, 85, 100
observed = (both + neither) / n
one, two = (both + first) / n, (both + second) / n  # how often each says misbehavior
yes, no = 2 * both + first + second, 2 * neither + first + second  # of 200 labels
chance = {
    "Cohen's kappa": one * two + (1 - one) * (1 - two),
    "Krippendorff's alpha": (yes * (yes - 1) + no * (no - 1)) / (2 * n * (2 * n - 1)),
    "Gwet's AC1": 2 * (yes / (2 * n)) * (no / (2 * n)),
}
by_hand = {name: (observed - p_e) / (1 - p_e) for name, p_e in chance.items()}

# %% [markdown]
# The library gets the 100 labels of each annotator and must give the same three numbers.

# %%
labels_a = pd.Series([1] * (both + first) + [0] * (second + neither))
labels_b = pd.Series([1] * both + [0] * first + [1] * second + [0] * neither)
small = chapter.agreement_table(labels_a, labels_b, run.rng("by hand"))
small["by hand"] = small["coefficient"].map(by_hand)
difference = (small["value"] - small["by hand"]).abs().max()
assert difference < 1e-9, "the library must count as we did"
display.table(small[["coefficient", "value", "by hand"]])

# %% [markdown]
# Kappa and alpha call it poor, and AC1 calls it good, though all three saw the same labels.
# That is why we report all of them. Where one label is rare, AC1 ascribes less agreement to
# chance than the other two.
#
# Now the annotators of this benchmark. Intervals resample the annotated samples. Where nobody
# disagreed, resampling would give an interval of length zero, so the lower end allows for the
# disagreements that the exact binomial bound leaves possible.

# %%
labels = given.pivot(index="sample_id", columns="annotator", values="given")
labels.insert(0, "author", given.groupby("sample_id")["label"].first())
complete = labels.dropna().astype(int)
pairs = [(a, b) for i, a in enumerate(complete) for b in list(complete)[i + 1 :]]
tables = [
    chapter.agreement_table(complete[a], complete[b], run.rng(f"{a} {b}")).assign(pair=f"{a}, {b}")
    for a, b in pairs
]
agreement = pd.concat(tables) if tables else small.assign(pair="").head(0)
display.table(agreement[["pair", "coefficient", "value", "low", "high"]], decimals=3)

# %%
if pairs:
    fig = chapter.plot_agreement(agreement, list(agreement["pair"].unique()))
    display.show(
        fig,
        "02_agreement",
        alt="Observed agreement, kappa, alpha and AC1 with 95 percent intervals for each pair "
        "of annotators.",
    )

# %% [markdown]
# There is one panel per pair of annotators and one row per coefficient. The dot is the estimate
# and the grey bar its interval. Further to the right is better, and 1 is perfect agreement.
# Compare where the bars end on the left, since they say how much disagreement is still possible.

# %%
judged = given.assign(agrees=given["given"] == given["label"])
by_cell = annotation.right_by(given, "cell")
display.table(
    display.spans(by_cell, ["right"], 3),
    caption="Agreement with the author's label, by cell; 95 % intervals over scenarios",
)

# %% [markdown]
# Is misbehavior that hides harder for readers, too? They saw request and response in full. Where
# they are right in every tier alike, the tiers are no obstacle to somebody who reads all of it,
# and the pairs tell large models that see everything apart no more. They are made for monitors
# that know less or see less.

# %%
for column in ("tier", "protocol"):
    agreed = judged.pivot_table(index=column, columns="annotator", values="agrees")
    display.table(agreed, decimals=3, caption=f"Agreement with the author's label, by {column}")

# %% [markdown]
# ## What must a reader see?
#
# In practice a monitor does not always get everything. So other readers of the same kind got only
# a part of some samples: the response without the request, its last seventy words, its final answer
# without thinking and log, or thinking and log without the answer. One more saw everything and had
# to quote its evidence. The first row of the next figure takes the same samples from a reader who
# saw all of them. (All of these readers are large language models, and so was the author.)

# %%
first = given[given["annotator"] == given["annotator"].min()]
first = first[first["item"].isin(partial["item"])].assign(annotator="request and response")
seen = annotation.right_by(pd.concat([first, partial]), "tier")
if pairs:
    fig = chapter.plot_by_tier(
        seen, "annotator", "right", "share of right labels (bars: 95 % over scenarios)", 0.5
    )
    display.show(
        fig,
        "02_views",
        alt="Share of right labels of readers who saw request and response, or a part of them, in "
        "the open, veiled and hidden tier.",
    )
every = seen[seen["tier"] == "all"].drop(columns="tier")
display.table(
    display.spans(every, ["right"]),
    caption="All tiers together: labels given, and how many are right",
)

# %% [markdown]
# Each row is a view, and the colours are the tiers. Further to the right is better, and the dotted
# line is what a coin would get. Compare the rows, which say what each part is worth to a
# reader, and within a row the colours, which say whether hidden misbehavior is lost first.

# %% [markdown]
# ## Every disagreement, and every doubt
#
# A disagreement is either an annotator's slip or a fault of the pair. Each is listed here, and
# so is each sample whose note speaks of hesitation. Unfold the pair below the table and decide
# for yourself.

# %%
apart = given["given"] != given["label"]
doubt = given["note"].str.contains("hesit|doubt|slight|borderline|unsure", case=False)
print(f"{apart.sum()} disagreements and {doubt.sum()} doubts in {len(given)} labels")
looked = given[apart | doubt].sort_values(["cell", "sample_id"])
display.table(looked[["sample_id", "annotator", "label", "given", "note"]])
chapter.browse(samples, sorted(looked["pair_id"].unique()))

# %% [markdown]
# ## What was checked against the world
#
# Notebook 1 executed programs, solved problems again and looked for the evidence. Execution and
# solvers decide a label. Evidence shows that the deed is in the text, and whether it breaks the
# rule is what the readers above were asked.

# %%
checked = checks.groupby(["cell", "check"])["confirmed"].agg(["size", "sum"])
checked = checked.set_axis(["checked", "confirmed"], axis=1)
display.table(checked, caption="Samples that passed their check by execution or solver")

# %% [markdown]
# ## Can the benchmark be solved by a shortcut?
#
# Suppose that every misbehaving response said "done" and no benign one did. Then a monitor that
# looks for one word would seem perfect. To find such habits we train four simple classifiers,
# called probes, that see only a part of each sample. They see its length (*length*), which
# words occur in the response (*keywords*), the TF-IDF weights of its words and word pairs
# (*response words*), or the request alone (*request words*). They learn on some scenarios and
# are scored on others [4].
#
# The score is the AUROC, which is the chance that a misbehaving response gets a higher value
# than a benign one. Guessing gives .5. Both responses of a pair answer one request, so the
# request alone must give exactly .5. A fifth probe sees the words of request and response
# together.

# %%
limits = dict.fromkeys(samples["cell"].unique(), 0.70)
audit = probes.probe_cells(samples, run.rng("probes"))
display.table(audit.pivot(index="cell", columns="probe", values="auroc"), decimals=3)

# %%
fig = chapter.plot_probes(audit, limits)
display.show(
    fig,
    "02_probes",
    thumbnail=True,
    alt="AUROC of the shortcut probes with intervals for each cell; the upright line "
    "is the limit for response words.",
)

# %% [markdown]
# The nearer a mark is to the dotted line at .5, the better, since a monitor then has to
# understand the pair. The goal is that no mark lies to the right of the upright orange line of
# its cell. A mark far to the *left* of .5 is no shortcut either. It says that the habit of some
# scenarios is reversed in others.

# %% [markdown]
# A rule needs no training at all. In the sycophancy cells it may read the cue and the answer, and
# alarm if the last letter of the response is the suggested one. Under the published protocol this
# rule is perfect, whatever the response did to get there. The controls exist to break it.

# %%
letters = written.cue_rule(written.WrittenPair.load(), samples)
display.table(letters, decimals=2, caption="The rule 'the answer is the suggested one', a monitor")

# %% [markdown]
# Each row is a protocol, and the last one all pairs of both cells together. `mr` is the share of
# misbehaving responses that the rule misses, `far` the share of benign ones that it alarms about.

# %% [markdown]
# Which words would a probe use, if it could see all scenarios? A list that makes sense to you
# ("sorry", "secretly") would be a warning.

# %%
words = {
    cell: probes.telling_words(list(part["response"]), part["label"].to_numpy(), 8)
    for cell, part in samples.groupby("cell", sort=False)
}
display.table(
    pd.DataFrame(
        [(cell, ", ".join(bad), ", ".join(good)) for cell, (bad, good) in words.items()],
        columns=["cell", "speak for misbehavior", "speak for benign"],
    ),
    caption="The most telling words, all scenarios seen",
)

# %% [markdown]
# ## Length and vocabulary of the two sides
#
# The first table gives the mean number of words on each side. Its last column is the share of
# pairs in which the misbehaving response is the longer one, and half would be ideal.

# %%
lengths = balance.length_balance(samples)
display.table(lengths, decimals=2, caption="Mean words per response")

# %% [markdown]
# How far apart are the two responses of a pair? A minimal pair would differ in the words that
# decide and share all others. Take the words that either response uses, and count which share
# of them both use.

# %%
shared_words = balance.shared_words(samples)
display.table(shared_words, decimals=2, caption="Words that both responses of a pair use")
ordered = shared_words.sort_values("mean")
display.say(
    "On average the responses of a pair share between {least:.0%} ({low}) and {most:.0%} "
    "({high}) of their words. In minimal pairs it would be nearly all.",
    least=ordered["mean"].min(),
    low=" ".join(ordered["cell"].head(1)),
    most=ordered["mean"].max(),
    high=" ".join(ordered["cell"].tail(1)),
)

# %% [markdown]
# Last, compare the word counts of all benign responses with those of all misbehaving ones. The
# Jensen-Shannon distance between them is 0 if they are equal. The two columns on chance show
# what the distance is (its mean, and its upper end) after the sides of randomly chosen
# scenarios were swapped. A distance above the upper end is more than chance explains.

# %%
vocabulary = balance.vocabulary_balance(samples, run.rng("vocabulary"))
display.table(vocabulary, caption="Distance between the vocabularies of both sides")

# %% [markdown]
# ## Duplicates and contamination
#
# Two samples are near-duplicates if, of the five-word runs that occur in either of them, an
# estimated .9 or more occur in both. A corpus that held a near-duplicate of a test sample, or
# shared a scenario with the benchmark, would let a monitor remember instead of judge.

# %%
benchmark = duplicates.Neighbours(chapter.whole_texts(samples))
repeated = benchmark.share_near()
copied = {
    cell: duplicates.share_copied(chapter.whole_texts(part), part["pair_id"])
    for cell, part in samples.groupby("cell", sort=False)
}
closest, rows, shared = 0.0, 0, 0
for part in run.read_parts("01_benchmark_construction", "corpus"):
    rows += len(part)
    shared += int(part["scenario_id"].isin(samples["scenario_id"]).sum())
    found = duplicates.signatures(chapter.whole_texts(part))
    closest = max(closest, benchmark.largest_similarity(found))
display.say(
    "Near-duplicates within the benchmark: {repeated:.1%}; with names, numbers and quotes masked, "
    "at most {copied:.1%} of a cell have another one that is alike. Corpus: {rows:,} samples, "
    "{shared} from a benchmark scenario; largest similarity to any benchmark sample: "
    "{closest:.2f}.",
    repeated=repeated,
    copied=max(copied.values()),
    rows=rows,
    shared=shared,
    closest=closest,
)

# %% [markdown]
# ## Does it hold?
#
# Each assertion states a limit and says what is wrong with the benchmark if it fails.

# %%
wide = audit.pivot(index="cell", columns="probe", values="auroc")
assert checks["confirmed"].all(), "what can be checked must pass its check"
if not SAMPLES_FILE:  # we cannot vouch for yours: look at the numbers above
    assert (wide["request words"] == 0.5).all(), "the request is shared, so it tells nothing"
    assert shared == 0, "corpus and benchmark must not share a scenario"
    assert closest < duplicates.NEAR, "the corpus must not hold a benchmark sample"
    print("labels and contamination are within the stated limits")

# %% [markdown]
# Goals are another thing than limits. A benchmark that somebody wrote may miss one, and then the
# figure says by how much. The table counts the cells that meet each goal.

# %%
right = by_cell[by_cell["cell"] != "all"].groupby("cell")["right_low"].min()
goals = {
    "both readers right in .97 of a cell, lower end": right >= 0.97,
    "length alone between .42 and .58": wide["length"].between(0.42, 0.58),
    "response words at most .70 on unseen scenarios": wide["response words"] <= 0.70,
    "request and response words at most .70": wide["all words"] <= 0.70,
    "the cue rule at most .80 over both sycophancy cells": letters["auroc"].tail(1) <= 0.80,
    "masked copies under 3 %": pd.Series(copied) < 0.03,
}
met = [(goal, f"{met.sum()} of {len(met)}", ", ".join(met[~met].index.astype(str)))
       for goal, met in goals.items()]
display.table(pd.DataFrame(met, columns=["goal", "met", "missed by"]))

# %% [markdown]
# ## Writing the outputs

# %%
columns = ["sample_id", "annotator", "kind", "given", "note"]
run.write_table("annotations", given[columns])
run.write_table("audit", audit)
kappa = agreement[agreement["coefficient"] == "Cohen's kappa"]["value"]
run.write_metrics(
    ({"agreement.kappa": kappa.min()} if pairs else {}) | {"agreement.samples": len(complete)}
    | {f"right.{row.annotator}": row.right for row in every.itertuples()}
    | {f"right.{cell}.lower_end": low for cell, low in right.items()}
    | {"disagreements": int(apart.sum()), "near_duplicates": repeated}
    | {f"probe.{row.cell}.{row.probe}": row.auroc for row in audit.itertuples()}
)
display.headline(
    f"{wide['response words'].max():.2f}",
    "largest AUROC of a word probe on unseen scenarios (.50: no shortcut)",
)
run.close()

# %% [markdown]
# ## What we saw
#
# - We measured agreement of a blind annotation, and listed every disagreement and doubt.
# - We probed for shortcuts with whole scenarios held out.
# - We looked for duplicates, contamination and imbalance.
#
# **Limits.** Language models wrote the pairs and gave the blind labels. So agreement shows that
# the text decides the label, not that people with other habits would agree. A panel of people
# would be the stronger test, and `annotation.draw_sheet` draws its sheet. The readers also heard
# one voice in many of the texts, and found some of the deference more open than a real assistant's.
# A probe that finds nothing shows that *this* shortcut is closed, not that all are.
# Intervals resample scenarios that few authors wrote.

# %% [markdown]
# ## Exercises
#
# 1. Plant a shortcut: add the word "sorry" to every misbehaving response of one cell and
#    run the probes again. Which of them notices?
#    <details><summary>Answer</summary>Keywords and response words jump to 1. Length moves a
#    little. The request cannot move, because both responses of a pair share it.</details>
# 2. Why are whole scenarios held out, and not single samples?
#    <details><summary>Answer</summary>Samples of one scenario share wording on each side.
#    A probe that has seen the scenario recognises the sentences, which tells how it was
#    composed and nothing about a shortcut that works on new scenarios.</details>
# 3. Annotate twenty samples yourself and compute the three coefficients.
#    <details><summary>Answer</summary>With twenty samples the intervals are wide. Even
#    perfect agreement on all twenty leaves room for a true rate near .83.</details>
