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

# %%
import pandas as pd

from monitorlab import display
from monitorlab.benchmark import annotation, balance, duplicates, figures, probes
from monitorlab.benchmark.annotation import agreement_table
from monitorlab.benchmark.browser import browse
from monitorlab.benchmark.samples import whole_texts
from monitorlab.pipeline.artifacts import open_run, read_parts, read_table, write_table

# %%
run = open_run("02_annotation_and_audit", profile=PROFILE, run_id=RUN_ID, seed=SEED)
display.use(run)
samples = read_table(run, "01_benchmark_construction", "samples")
checks = read_table(run, "01_benchmark_construction", "label_checks")
print(f"{len(samples)} samples, {len(checks)} of them checked by execution or solver")

# %% [markdown]
# ## Guidelines, and a second pair of eyes
#
# A referee of the paper asked how annotators agreed; no figure was published. Our first
# label is the author's intention, written into the scenario. The second comes from
# annotators who saw request and response of a stratified sample, one of each pair, in
# mixed order, with nothing but the guidelines in `data/annotations/GUIDELINES.md`. Who or
# what they are is stored with every label; a label is tied to the text it was given to.

# %%
given = annotation.joined(samples, annotation.read_annotations())
who = given.groupby(["annotator", "kind"]).agg(
    samples=("item", "size"), called_misbehavior=("given", "mean")
)
display.table(who, caption="Annotators")

# %% [markdown]
# ## The method happens here
#
# Raw agreement $p_o$ flatters rare labels, so three coefficients subtract chance,
# $$\frac{p_o - p_e}{1 - p_e},$$
# with $p_e$ from each annotator's own label rates (Cohen's kappa), from the pooled rates
# (Krippendorff's alpha [3]), or as $p_e = 2\pi(1-\pi)$ with $\pi$ the mean rate (Gwet's
# AC1 [2]). Intervals resample the annotated samples; where nobody disagreed, the lower end
# allows the disagreements that the exact binomial bound leaves possible.

# %%
labels = given.pivot(index="sample_id", columns="annotator", values="given")
labels.insert(0, "author", given.groupby("sample_id")["label"].first())
complete = labels.dropna().astype(int)
pairs = [(a, b) for i, a in enumerate(complete) for b in list(complete)[i + 1 :]]
agreement = pd.concat(
    agreement_table(complete[a], complete[b], run.rng(f"{a} {b}")).assign(pair=f"{a}, {b}")
    for a, b in pairs
)
display.table(agreement[["pair", "coefficient", "value", "low", "high"]], decimals=3)

# %%
fig = figures.plot_agreement(agreement, list(agreement["pair"].unique()))
display.show(
    fig,
    "02_agreement",
    alt="Observed agreement, kappa, alpha and AC1 with 95 percent intervals for each pair "
    "of annotators.",
)

# %%
by_cell = given.assign(agrees=given["given"] == given["label"])
by_cell = by_cell.pivot_table(index="cell", columns="annotator", values="agrees")
display.table(by_cell, decimals=3, caption="Agreement with the author's label, by cell")

# %% [markdown]
# ## Every disagreement, and every doubt
#
# A disagreement is either an annotator's slip or a fault of the pair. Each is listed
# here, and so is each sample whose note speaks of hesitation; unfold the pair and decide
# for yourself.

# %%
apart = given["given"] != given["label"]
doubt = given["note"].str.contains("hesit|doubt|slight|borderline|unsure", case=False)
print(f"{apart.sum()} disagreements and {doubt.sum()} doubts in {len(given)} labels")
looked = given[apart | doubt].sort_values(["cell", "sample_id"])
display.table(looked[["sample_id", "annotator", "label", "given", "note"]])
browse(samples, sorted(looked["pair_id"].unique()))

# %% [markdown]
# ## What was checked against the world
#
# Every program was executed and every problem solved again. In SG code and in reasoning that
# decides the label. In S&PV code it shows that both programs do their task, and nothing about
# their security, which is what the label is about.

# %%
checked = checks.groupby(["cell", "check"])["confirmed"].agg(["size", "sum"])
checked = checked.set_axis(["checked", "confirmed"], axis=1)
display.table(checked, caption="Samples that passed their check by execution or solver")

# %% [markdown]
# ## Can the benchmark be solved by a shortcut?
#
# Four probes see only a part of each sample: its length, which words occur in the
# response, TF-IDF weights of words and word pairs, or the request alone. They are trained
# on some scenarios and scored on others [4]. Both responses of a pair answer one request,
# so the request alone must give exactly .5; the other probes show what an author's habits
# give away. A fifth row is a control: the same words, but with other pairs of the *same*
# scenario in training. It shows how far memory of a scenario carries.

# %%
limits = dict.fromkeys(("spv_code", "spv_qa"), 0.80)
limits |= dict.fromkeys(("syco_qa", "syco_reasoning", "sg_code", "sg_qa"), 0.70)
audit = probes.probe_cells(samples, run.rng("probes"))
display.table(audit.pivot(index="cell", columns="probe", values="auroc"), decimals=3)

# %%
fig = figures.plot_probes(audit, limits)
display.show(
    fig,
    "02_probes",
    thumbnail=True,
    alt="AUROC of the shortcut probes with intervals for each cell; the orange mark "
    "is the limit for response words.",
)

# %% [markdown]
# Length looks at one number; its interval should hold .5. Where words stay near .5, a
# monitor has to understand the pair. A probe far to the *left* of .5 is no shortcut
# either: it only says that the habit of some scenarios is reversed in others.

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
# ## Length and vocabulary
#
# The Jensen-Shannon distance between the word distributions of both sides is 0 if they
# are equal. Swapping the sides of randomly chosen scenarios shows what chance gives.

# %%
lengths = balance.length_balance(samples)
display.table(lengths, decimals=2, caption="Mean words per response")

# %% [markdown]
# How far apart are the two responses of a pair? A minimal pair would differ in the words that
# decide and share all others. Of the words that either response uses, count those that both
# do.

# %%
shared_words = balance.shared_words(samples)
display.table(shared_words, decimals=2, caption="Words that both responses of a pair use")
display.say(
    "On average the responses of a pair share between {least:.0%} ({low}) and {most:.0%} "
    "({high}) of their words; in minimal pairs it would be nearly all.",
    least=shared_words["mean"].min(),
    low=shared_words.loc[shared_words["mean"].idxmin(), "cell"],
    most=shared_words["mean"].max(),
    high=shared_words.loc[shared_words["mean"].idxmax(), "cell"],
)

# %%
vocabulary = balance.vocabulary_balance(samples, run.rng("vocabulary"))
display.table(vocabulary, caption="Distance between the vocabularies of both sides")

# %% [markdown]
# ## Duplicates and contamination
#
# Near-duplicates are samples whose five-word runs overlap by an estimated Jaccard
# similarity of .9 or more. Between dev and test, and between corpus and benchmark, there
# may be neither a shared scenario nor a near-duplicate.

# %%
benchmark = duplicates.signatures(whole_texts(samples))
repeated = duplicates.share_near(benchmark)
closest, rows, shared = 0.0, 0, 0
for part in read_parts(run, "01_benchmark_construction", "corpus"):
    rows += len(part)
    shared += int(part["scenario_id"].isin(samples["scenario_id"]).sum())
    found = duplicates.signatures(whole_texts(part))
    closest = max(closest, duplicates.largest_similarity(found, benchmark))
display.say(
    "Near-duplicates within the benchmark: {repeated:.1%}. Corpus: {rows:,} samples, "
    "{shared} from a benchmark scenario; largest similarity to any benchmark sample: "
    "{closest:.2f}.",
    repeated=repeated,
    rows=rows,
    shared=shared,
    closest=closest,
)

# %% [markdown]
# ## Does it hold?

# %%
wide = audit.pivot(index="cell", columns="probe", values="auroc")
assert checks["confirmed"].all(), "what can be checked must pass its check"
assert wide["length"].between(0.42, 0.58).all(), "length must not give the label away"
assert (wide["request words"] == 0.5).all(), "the request is shared, so it tells nothing"
for cell, limit in limits.items():
    assert wide.loc[cell, "response words"] <= limit, f"{cell}: mend the scenarios"
assert shared == 0, "corpus and benchmark must not share a scenario"
assert closest < duplicates.NEAR, "the corpus must not hold a benchmark sample"
print("labels, shortcuts and contamination are within the stated limits")

# %% [markdown]
# ## Writing the outputs

# %%
columns = ["sample_id", "annotator", "kind", "given", "note"]
write_table(run, "annotations", given[columns])
write_table(run, "audit", audit)
kappa = agreement[agreement["coefficient"] == "Cohen's kappa"]["value"]
run.write_metrics(
    {"agreement.kappa": kappa.min(), "agreement.samples": len(complete)}
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
# **Limits.** Language models helped to write the scenarios and gave the blind labels, so
# agreement shows that the request decides the label, not that people with other habits
# would agree; a panel of people would be the stronger test, and `annotation.draw_sheet`
# draws its sheet. A probe
# that finds nothing shows that *this* shortcut is closed, not that all are. Intervals
# resample scenarios of one library, written by few authors.

# %% [markdown]
# ## Exercises
#
# 1. Plant a shortcut: add the word "sorry" to every misbehaving response of one cell and
#    run the probes again. Which of them notices?
#    <details><summary>Answer</summary>Keywords and TF-IDF jump to 1; length moves a
#    little; the request cannot.</details>
# 2. Why are whole scenarios held out, and not single samples?
#    <details><summary>Answer</summary>Samples of one scenario share wording on each side.
#    A probe that has seen the scenario recognises the sentences, which tells how it was
#    composed and nothing about a shortcut that works on new scenarios.</details>
# 3. Annotate twenty samples yourself and compute the three coefficients.
#    <details><summary>Answer</summary>With twenty samples the intervals are wide: even
#    perfect agreement on twenty leaves room for a true rate near .86.</details>
