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
# # 3. Monitor evaluation
#
# > A monitor errs in two ways, and it can also fail to answer. Count all three apart, with
# > intervals over scenarios, before saying that one monitor is better than another.
#
# *Paper: arXiv 2601.05752, sections 5 and 6.1. Cost: half a minute in `tiny`, under two
# minutes in `cpu`, much of it for asking the language model.*

# %% [markdown]
# **You will learn**
# - Ask a monitor about thousands of samples, and keep every answer, also the failed ones.
# - Measure miss rate and false alarm rate with intervals that allow for scenarios, and with
#   the bounds that failed verdicts leave.
# - Find out which differences between monitors are real.
#
# **Reads** `samples`, `corpus`, `real_samples`, `real_transcripts`
#
# **Writes** `verdicts`, `rates`, `real_verdicts`, `judge_verdicts`
#
# **References**
# - [1] Yang et al., *AutoMonitor-Bench*, arXiv 2601.05752.
# - [2] Wilson, *Probable inference, the law of succession, and statistical inference*,
#   Journal of the American Statistical Association, 1927.
# - [3] Korn and Graubard, *Confidence intervals for proportions with small expected number
#   of positive counts estimated from survey data*, Survey Methodology, 1998.
# - [4] Newcombe, *Improved confidence intervals for the difference between binomial
#   proportions based on paired data*, Statistics in Medicine, 1998.
# - [5] Holm, *A simple sequentially rejective multiple test procedure*, Scandinavian
#   Journal of Statistics, 1979.

# %% tags=["parameters"]
PROFILE: str = "tiny"  # tiny, cpu or gpu: how large everything is
RUN_ID: str = "default"  # folder of the run under data/runs
SEED: int = 2026  # one seed for everything
MONITOR: str = ""  # more monitors, with ; between: file.py:function, smollm2, hf:NAME, api:MODEL
LEVEL: float = 0.05  # family-wise error rate of the comparisons
SAMPLES_FILE: str = ""  # your own labelled samples instead of the benchmark
LANGUAGE: bool = True  # whether SmolLM2 takes part; about your own samples it is asked live

# %%
import pandas as pd

from monitorlab import display, score
from monitorlab.chapters import evaluation as chapter
from monitorlab.evaluation import comparisons, rates, tradeoff
from monitorlab.monitors.monitor import Sample
from monitorlab.pipeline.runs import open_run

# %% [markdown]
# The samples are those of the benchmark. Name a file with the columns request, response and label
# in `SAMPLES_FILE`, and every figure and table up to the real pairs shows your own samples instead,
# as do those on what a monitor must see. Yours may also say their pair_id, scenario_id, cell and
# split (dev or test).

# %%
run = open_run("03_monitor_evaluation", profile=PROFILE, run_id=RUN_ID, seed=SEED)
display.use(run)
sizes = run.profile.evaluation
if SAMPLES_FILE:
    file = run.record_file(SAMPLES_FILE)
    benchmark = samples = chapter.own_samples(file, run.rng("own samples"), print)
else:
    benchmark = run.read_table("01_benchmark_construction", "samples")
    samples = chapter.draw_pairs(benchmark, sizes.pairs_per_cell, run.rng("pairs"))
display.table(
    samples.groupby(["cell", "split"]).size().unstack(),
    caption=f"{len(samples)} of {len(benchmark)} samples are judged",
)

# %% [markdown]
# ## What a monitor sees
#
# A monitor gets a request and a response, never the label, the cell or the name of the
# misbehavior. A language model gets them inside a prompt, which says who it is and what counts
# as misbehavior, and holds the text under audit between two tags. Text that contains such a
# tag is broken up, so that nothing in a response can close the frame and give orders. Here is
# what the model reads for one sample.

# %% tags=["nbval-ignore-output"]
prompts = {name: chapter.load_prompt(name) for name in ("direct", "evidence", "score")}
shown = samples if SAMPLES_FILE else samples[samples["cell"] == "syco_qa"]
first = Sample.rows(shown)[0]
for message in prompts["direct"].messages(first):
    print(f"[{message['role']}]\n{message['content']}\n")

# %% [markdown]
# There are three prompts. The one above is called *direct* and asks for a verdict. *evidence*
# also wants quotes that prove it, and *score* asks for a number from 0 to 100.

# %%
display.table(
    pd.DataFrame(
        [(p.name, p.version, p.answer, p.digest[:12]) for p in prompts.values()],
        columns=["prompt", "version", "answer", "digest"],
    ),
    caption="A prompt is a data file; its digest is part of every request's key",
)

# %% [markdown]
# ## The monitors of this chapter
#
# Two constants and a coin show what a monitor reaches without reading anything. Keyword rules
# and program-aided checks look for fixed signs. (Bandit reads code, a syntax tree is searched
# for memorised test values and tampering, and arithmetic is recomputed.) The cue follower only
# asks whether the chosen option is the one that a cue names. TF-IDF and a probe on a real
# pretrained sentence encoder learn from the corpus, which holds no specification gaming. The
# last one, *rules, else TF-IDF*, alarms where the cue follower or the program checks alarm, and
# otherwise asks TF-IDF.

# %%
rules = chapter.rule_monitors(SEED)
learned = chapter.learned_monitors(
    run.read_parts("01_benchmark_construction", "corpus"),
    run.rng("learned"),
    words=sizes.words,
    embedded=sizes.embedded,
    dtype=sizes.encoder_dtype,
)
print("rules:  ", ", ".join(monitor.name for monitor in rules))
print("learned:", ", ".join(monitor.name for monitor in learned))

# %% [markdown]
# A language model reads the whole text, at a price. SmolLM2-135M-Instruct is a real one,
# pretrained, tuned to follow instructions, and small enough for two cores. It makes many mistakes,
# which is what a chapter on errors can use. It is also slow beside rules, so its answers about the
# test split were given before. They are released with their keys, and we ask for some of them
# again. Two samples of the benchmark are longer than the 8,192 tokens that it can read, and are
# left out. The probe on sentence embeddings is slow too and judges a part. The tables say how many
# samples that is.
#
# Put monitors of your own into `MONITOR`, and they take part in everything below. Settings may
# follow a name, as in `api:MODEL -o base_url=http://127.0.0.1:8000/v1`, and a semicolon
# separates several. Here `smollm2` is the same model, asked about every sample.

# %%
language = chapter.NO_MODEL
if LANGUAGE:
    language = chapter.language_model(prompts, sizes.released)
hybrid = chapter.combined_monitors(rules, learned)
ours = [*rules, *learned, *hybrid, *language.by_logits, *language.by_text]
given = chapter.given_monitors(MONITOR, ours)
print(language.about)
print(f"{len(language.released)} of its answers are released")

# %% [markdown]
# ## Ask every monitor, and store every answer
#
# Every answer is stored under the SHA-256 of its full request, which holds settings, prompt
# digest, texts and the number of the draw. What is stored is not asked again. A failed call is
# never stored. Your own monitor may cost money, so its answers are kept beyond this run.

# %%
store = chapter.VerdictStore(run.folder / "verdicts.jsonl")
lasting = chapter.VerdictStore(chapter.cache_folder("verdicts") / "notebook_03.jsonl")
store.put(language.released)
stores = {monitor.name: lasting for monitor in given}
asked = Sample.rows(samples)
some = Sample.rows(chapter.draw_pairs(samples, sizes.encoded_pairs, run.rng("encoded")))
everyone = [*rules, *learned, *hybrid, *given]
verdicts = pd.concat(
    [
        score(m, some if m is learned[1] else asked, stores.get(m.name, store))
        for m in display.progress(everyone, "monitors asked")
    ],
    ignore_index=True,
)
judged = rates.join(verdicts, samples)

# %% [markdown]
# Of the language model only the logits of the next word are computed: the reply is begun for
# it, and the score is the share of *true* against *false*. With the evidence prompt it judges
# fewer pairs.

# %%
tested = samples[samples["split"] == "test"]
drawn = chapter.draw_pairs(tested, sizes.language_pairs, run.rng("language"), by=("cell",))
fewer = chapter.draw_pairs(drawn, sizes.prompt_pairs, run.rng("prompts"), by=("cell",))
parts = {
    m.prompt: language.part(m, tested, drawn if m.prompt == "direct" else fewer)
    for m in language.by_logits
}
spoken = [
    score(m, Sample.rows(parts[m.prompt]), store)
    for m in display.progress(language.by_logits, "language model")
]
test = rates.join(pd.concat([verdicts, *spoken], ignore_index=True), samples)
test = test[test["split"] == "test"]

# %% [markdown]
# A released answer is worth something only if the model gives it. So we ask about some of these
# samples again, without looking into the store.

# %% tags=["nbval-ignore-output"]
if spoken and language.released and sizes.asked_again:
    few = parts["direct"].sample(sizes.asked_again, random_state=run.rng("again"))
    again = score(language.by_logits[0], Sample.rows(few), title="asked again")
    known = spoken[0].set_index("sample_id")["score"]
    off = (again["score"] - again["sample_id"].map(known)).abs()
    assert (off < 0.02).all(), "the model gives the released scores"
    display.say(
        "{n} samples were asked again, and the largest difference of the scores is {most:.4f}.",
        n=len(again),
        most=off.max(),
    )

# %% [markdown]
# Its prompts share their beginning, and the two responses of a pair share their request. So
# most tokens need to be read only once.

# %% tags=["nbval-ignore-output"]
if spoken:
    display.say(
        "{total:,} prompt tokens, {distinct:,} of them distinct: whoever reads each of those "
        "once does {limit:.2f} times less work than one prompt at a time. Whoever asked first "
        "waited for {seconds:.1f} seconds.",
        **language.sharing(Sample.rows(parts["direct"])),
        seconds=float(spoken[0]["seconds"].sum()),
    )

# %% [markdown]
# ## How often does each monitor miss, and how often is its alarm false?
#
# A monitor reads 12 misbehaving responses and is silent on 6. It reads 12 benign ones and
# alarms on 3. Its miss rate is 6/12 and its false alarm rate 3/12. With label 1 for
# misbehavior these are [1, equations 1 and 2]
# $$\mathrm{MR} = \frac{FN}{TP + FN}, \qquad \mathrm{FAR} = \frac{FP}{TN + FP}.$$
# Only verdicts that could be read ("parsed") enter them.
#
# How sure are we of such a rate? Wilson's interval [2] takes samples as independent. But the
# samples of one scenario share a situation and an author, and a monitor that errs on one of
# them tends to err on the others. So we count scenarios. With $e_g$ errors among the $n_g$
# samples of scenario $g$ and $\hat p$ the error rate, the *design effect* compares the spread
# over $G$ scenarios with that of $n$ independent samples,
# $$D = \frac{\frac{G}{G-1} \sum_g (e_g - \hat p\, n_g)^2}{n\, \hat p\, (1 - \hat p)},$$
# and $n$ samples are worth as much as $n/D$ independent ones [3].

# %% [markdown]
# ## The method happens here: both rates and the design effect
#
# Let the samples of our example come from three scenarios, each with four misbehaving and four
# benign ones. The monitor misses all four in the first scenario and one in each of the others.
# With a miss rate of one half we expect two misses in each. Follow the lines with a pencil.

# %%
missed, false_alarms, size = [4, 1, 1], [1, 1, 1], 4
n = 3 * size
mr, far = sum(missed) / n, sum(false_alarms) / n
squares = [(e - mr * size) ** 2 for e in missed]
effect = 3 / 2 * sum(squares) / (n * mr * (1 - mr))
print(f"miss rate {sum(missed)}/{n} = {mr}, false alarm rate {sum(false_alarms)}/{n} = {far}")
print(f"squares {squares}, design effect {effect}")
print(f"{n} samples are worth {n / effect:.0f} independent ones")

# %% [markdown]
# The library adds one step, so that a rate of exactly 0 is as uncertain as its number of
# scenarios. It counts one more scenario of mean size, which is all wrong or all right with
# even odds. Here that scenario has four samples. Either way it is 2 away from the 2 expected
# misses, and its square is 4. Now there are four scenarios with 16 samples.

# %%
one_more = 4 / 3 * (sum(squares) + 4) / (16 * mr * (1 - mr))
rows = [
    (f"scenario {place}", label, number < errors)
    for label, counts in ((1, missed), (0, false_alarms))
    for place, errors in enumerate(counts)
    for number in range(size)
]
toy = pd.DataFrame(rows, columns=["scenario_id", "label", "wrong"])
toy = toy.assign(name="toy", status="parsed", draw=0, sample_id=toy.index.astype(str))
toy["verdict"] = (toy["label"] == 1) != toy["wrong"]  # an error says the opposite of the label
found = rates.rates(toy).iloc[0]
assert [found["mr"], found["far"]] == [mr, far], "the library must count the same errors"
assert abs(found["mr_design_effect"] - one_more) < 1e-9, "and find the same design effect"
print(f"with one more scenario, by hand and by the library: {one_more:.3f}")

# %% [markdown]
# Now the rules on the benchmark. The library never takes $D$ below 1, so an interval over
# scenarios is never narrower than Wilson's, which stands beside it.

# %%
ruled = rates.rates(test[test["name"].isin([m.name for m in rules])])
shown = ruled.assign(mr_wilson=ruled["mr"], far_wilson=ruled["far"])
shown = display.spans(shown, ["mr", "mr_wilson", "far", "far_wilson"])
columns = ["name", "mr", "mr_wilson", "mr_design_effect", "far", "far_wilson"]
columns += ["far_design_effect"]
display.table(
    shown[columns],
    decimals=1,
    caption="Rules, test split: 95 % intervals over scenarios; Wilson's assumes independent "
    "samples",
)

# %% [markdown]
# A failed verdict is neither an alarm nor a silence. The columns *least* and *most* say what
# the rate would be if all failed verdicts had been read in the monitor's favour, or against it.
# Where the two are far apart, the rate speaks of few samples.

# %%
bounds = ["mr", "mr_least", "mr_most", "far", "far_least", "far_most"]
display.table(ruled[["name", *bounds]], caption="What failed verdicts allow")

# %% [markdown]
# Next come all monitors that answer nearly always. Balanced accuracy is the mean of
# $1-\mathrm{MR}$ and $1-\mathrm{FAR}$, and g2 is their product. Higher is better for both.
# A coin that alarms half of the time has .5 and .25.

# %% tags=["nbval-ignore-output"]
board = rates.rates(test).sort_values("balanced_accuracy", ascending=False)
order = list(board["name"])
answering = board[board["parsed_misbehaving"] > 0.9].reset_index(drop=True)
answering.insert(1, "samples", answering["n_misbehaving"] + answering["n_benign"])
whole = answering[answering["samples"] == answering["samples"].max()]
shown = display.spans(answering, ["mr", "far", "balanced_accuracy", "g2"])
display.table(
    shown[["name", "samples", "mr", "far", "balanced_accuracy", "g2"]],
    caption="Monitors that answer nearly always, test split, 95 % intervals over scenarios",
)

# %% [markdown]
# What did counting scenarios change? A design effect of 4 would make an interval twice as wide.

# %% tags=["nbval-ignore-output"]
effects = answering[["mr_design_effect", "far_design_effect"]].to_numpy()
display.say(
    "Design effects of these rates lie between {least:.1f} and {most:.1f}; the largest makes "
    "an interval {wider:.1f} times as wide as Wilson's.",
    least=effects.min(),
    most=effects.max(),
    wider=effects.max() ** 0.5,
)

# %% [markdown]
# The cells of the whole benchmark differ in size. The next table gives each cell the same
# weight. Samples of your own are in the cells that their file names, or all in one.

# %% tags=["nbval-ignore-output"]
by_cell = rates.rates(test, by=("name", "cell"))
cells = list(by_cell["cell"].unique())
macro = rates.macro(by_cell, cells).set_index("name").reindex(answering["name"])
macro = display.spans(macro.reset_index(), ["mr", "far", "balanced_accuracy", "g2"])
which = f"cells of {file.name}: {', '.join(cells)}" if SAMPLES_FILE else "six cells"
display.table(macro.drop(columns="cells"), caption=f"Mean over the {which}")

# %% [markdown]
# ## Both errors in one plane
#
# The paper reports a trade-off over its 22 monitors. Those that miss less raise more false
# alarms, with a correlation of $r = -.54$ on the line
# $\mathrm{FAR} = -.42\,\mathrm{MR} + .49$. We fit such a line too. The fit leaves out
# constants and coin, which lie on $\mathrm{FAR} = 1 - \mathrm{MR}$ by construction, and
# monitors that abstain from most samples or were asked about less than a fifth of them. Few
# monitors are left, so read the interval of $r$ before $r$.
#
# Beside our monitors stand the readers of notebook 2. They are large language models that were not
# told the label, and they are recorded: nothing is asked here. Two of them saw everything, others a
# part, as their names say. They are *of the kind that also wrote the texts*, so do not read their
# places as those of large monitors in general.

# %%
said = rates.join(chapter.recorded.reader_verdicts(tested), tested)
readers = rates.rates(said).sort_values("balanced_accuracy", ascending=False)
published = chapter.Catalogue.load().published
looking = answering[answering["samples"] >= 0.2 * answering["samples"].max()]
looking = looking[~looking["name"].isin(chapter.CORNERS)]
line = tradeoff.Line.fit(looking)
fig = chapter.plot_plane(
    pd.concat([board, readers]),
    line,
    (published.slope, published.intercept),
    [*order, *readers["name"]],
)
display.show(
    fig,
    "03_plane",
    thumbnail=True,
    alt="Miss rate and false alarm rate of every monitor with 95 percent intervals over "
    "scenarios, the Pareto front, the line fitted here and the published one.",
)

# %% [markdown]
# Each cross is a monitor with its intervals, and further to the lower left is better in both
# ways. The broad grey staircase joins those that no other one beats in both, if there are
# several. Coins lie on the line from the upper left corner to the lower right one, so a monitor
# whose cross reaches that line may be no better than a coin.

# %% tags=["nbval-ignore-output"]
display.say(
    "{n} monitors: r = {r:.2f} (95 %: {low:.2f} to {high:.2f}), published {published:.2f}. Slope "
    "{slope:.2f} ({slope_low:.2f} to {slope_high:.2f}), published {published_slope:.2f}.",
    n=line.n,
    r=line.r,
    low=line.r_low,
    high=line.r_high,
    published=published.correlation,
    slope=line.slope,
    slope_low=line.slope_low,
    slope_high=line.slope_high,
    published_slope=published.slope,
)

# %% [markdown]
# ## The errors by cell, and by prompt
#
# One rate over all cells can hide a monitor that is good at one kind of misbehavior only.

# %%
fig = chapter.plot_cells(by_cell, order)
display.show(
    fig,
    "03_cells",
    alt="Two heat maps, miss rate and false alarm rate of every monitor in each of the "
    f"{which}; a dash where no verdict was parsed.",
)

# %% [markdown]
# Rows are monitors, columns are cells. Yellow is good and dark is bad, on the left for misses
# and on the right for false alarms. A dash means that the monitor gave no verdict there. Look
# for rows that are yellow on one side and dark on the other, which belong to monitors that
# alarm nearly always or nearly never.

# %% [markdown]
# The cue follower deserves a second look. Under the published protocol a cue always points to a
# *wrong* option, and the label says whether the answer followed it. So a rule that compares two
# letters, and understands nothing, cannot be beaten there. Where the cue is right
# (`right_cue`), it alarms whenever it speaks, and where there are no options it is silent.

# %%
cue = rates.rates(test[test["name"] == "cue follower"], by=("name", "protocol"))
columns = ["protocol", "parsed_misbehaving", "parsed_benign", "mr", "far"]
display.table(cue[columns], caption="The cue follower where it finds a cue and a choice")

# %% [markdown]
# ## Is misbehavior that hides harder to see?
#
# The authors of the pairs graded them. In the open tier the misbehavior is plain to anyone who
# reads, in the veiled tier one must understand the matter, and in the hidden tier it is one
# detail of a long and otherwise good response. A monitor that understands should find the first
# kind more easily than the last. One that guesses errs equally often in all of them. (Samples of
# your own have no tier, unless their file has that column.)

# %%
everybody = pd.concat([test[test["name"].isin(answering["name"])], said])
by_tier = rates.rates(everybody, by=("name", "tier"))
ladder = pd.concat([readers, answering]).sort_values("balanced_accuracy", ascending=False)["name"]
fig = chapter.plot_by_tier(
    by_tier.set_index("name").loc[list(ladder)].reset_index(),
    "name",
    "balanced_accuracy",
    "balanced accuracy (bars: 95 % over scenarios)",
    0.5,
)
display.show(
    fig,
    "03_tiers",
    alt="Balanced accuracy of every monitor that answers nearly always, and of recorded readers "
    "who saw all or a part of each sample, in the open, the veiled and the hidden tier.",
)

# %% [markdown]
# Each row is a monitor or a reader, the best on top, and further to the right is better. Go down
# the rows: this is the ladder from those who see and understand everything to a coin. Within a row,
# compare the colours. If blue lies right of orange, plain misbehavior is found more easily than
# hidden misbehavior.

# %% tags=["nbval-ignore-output"]
rungs, below = [], 1.1
for row in pd.concat([readers, answering]).sort_values("balanced_accuracy_low")[::-1].itertuples():
    if row.balanced_accuracy_high < below:
        rungs, below = [*rungs, row.name], row.balanced_accuracy_low
display.say("{n} rungs do not touch: {names}.", n=len(rungs), names=", ".join(rungs))

# %% [markdown]
# The paper finds the fewest misses on safety and permission violations, many on sycophancy, and
# specification gaming varies most between monitors. Does the order return? (Readers are large
# language models of the kind that also wrote the texts.)

# %%
by_category = rates.rates(everybody, by=("name", "category"))
misses = by_category.pivot(index="name", columns="category", values="mr").loc[list(ladder)]
display.table(misses.reset_index(), caption="Miss rate by category, test split")

# %% [markdown]
# Does the prompt matter? The language model answered a part of the pairs with the evidence prompt
# too. On larger models the paper found that asking for evidence lowers misses and raises false
# alarms on safety and permission violations. Each row of the next table takes one kind of
# error. The difference is the error rate with the first prompt minus that with the second, and
# an interval that holds 0 leaves open which prompt is better.

# %% tags=["nbval-ignore-output"]
twice = test[test["monitor"] == language.name]
if len(twice):
    asked_twice = comparisons.compare(twice, LEVEL)
    columns = ["error", "first", "second", "n", "difference", "low", "high", "p"]
    display.table(
        asked_twice[columns], caption=f"Two prompts, {language.name}; scenarios as units"
    )

# %% [markdown]
# ## Does a monitor tell the two responses of a pair apart?
#
# Both responses of a pair answer one request. A monitor that alarms on both may be judging the
# request. One that is silent on both has noticed nothing. Only one that alarms on the
# misbehaving response alone has told them apart.

# %%
paired = comparisons.whole_pairs(test)
if len(paired):
    fig = chapter.plot_anatomy(comparisons.pair_anatomy(paired), order)
    display.show(
        fig,
        "03_anatomy",
        alt="Share of pairs that each monitor tells apart, alarms on both, on neither, on the "
        "benign one only, or leaves undecided.",
    )
else:
    print("no pairs: none of these samples shares its pair_id with one of the other label")

# %% [markdown]
# Each bar is a monitor, and its colours are the shares of pairs that it treated in one way.
# More green is better. A monitor that decides at random tells as many pairs apart as it
# inverts, so compare the green part with the dark orange one further right.

# %% [markdown]
# ## Which differences between monitors are real?
#
# Any two monitors are compared on the samples that both of them saw, so only the samples on which
# they differ can tell them apart. Take three scenarios. In the first one monitor A errs on two
# samples that B gets right, and in each of the others on one. These gaps are $D = (2, 1, 1)$, and
# their sum is 4.
# If both are equally good, they could trade names in any scenario, and its gap would have the
# other sign. So we ask in how many of the $2^G$ choices of signs the sum is as large as the
# one we saw, in either direction,
# $$p = 2^{-G} \,\#\Bigl\{\sigma \in \{-1, 1\}^G :
# \bigl|\textstyle\sum_g \sigma_g D_g\bigr| \ge \bigl|\sum_g D_g\bigr|\Bigr\}.$$

# %%
gaps = [2, 1, 1]
signs = [(a, b, c) for a in (1, -1) for b in (1, -1) for c in (1, -1)]
sums = [sum(sign * gap for sign, gap in zip(row, gaps, strict=True)) for row in signs]
p = sum(abs(total) >= sum(gaps) for total in sums) / len(sums)
assert abs(p - comparisons.sign_flip(gaps)) < 1e-12, "the library must count the same choices"
print(f"sums {sorted(sums)}, so p = {p}")
print(f"McNemar, four samples against none: p = {comparisons.mcnemar_exact(4, 0):.3f}")

# %% [markdown]
# Two of the eight choices reach 4. The exact test of McNemar takes the four samples as
# independent and finds a smaller p, since it counts the two samples of one scenario as two
# pieces of evidence. With one sample in each scenario both tests are the same.
#
# Holm [5] corrects for the number of pairs of monitors. Newcombe's interval [4], for as many
# samples as the scenarios are worth, says how large a difference is.

# %%
compared = comparisons.compare(test, LEVEL)
fig = chapter.plot_separation(compared, order)
display.show(
    fig,
    "03_separation",
    alt="Two matrices, for misses and for false alarms: which of two monitors has fewer, "
    "or that they cannot be separated.",
)

# %% [markdown]
# Read along a row. Blue is good and says that this monitor makes fewer such errors than the one
# in the column. Orange says that it makes more. Where a field is grey, these scenarios cannot
# tell. A question mark means that the difference would not survive if every failed verdict
# spoke against the seeming winner.

# %% [markdown]
# How many pairs of monitors would the test of McNemar have separated?

# %% tags=["nbval-ignore-output"]
by_sample = compared["p_mcnemar_holm"] <= LEVEL
told = compared.assign(by_sample=by_sample).groupby("error")
told = told.agg(
    pairs=("separated", "size"), separated=("separated", "sum"), mcnemar=("by_sample", "sum")
)
told.columns = ["pairs of monitors", "separated", "separated by McNemar"]
display.table(told)

# %% tags=["nbval-ignore-output"]
display.say(
    "Of these {pairs} comparisons, {more} are separated by McNemar and not by scenario, and "
    "{fewer} by scenario and not by McNemar. Design effects of the differences: median "
    "{middle:.1f}, largest {most:.1f}.",
    pairs=len(compared),
    more=int((by_sample & ~compared["separated"]).sum()),
    fewer=int((compared["separated"] & ~by_sample).sum()),
    middle=compared["design_effect"].median(),
    most=compared["design_effect"].max(),
)

# %% [markdown]
# One question remains, whether all monitors that judged every sample and answer nearly always err
# equally often. A small p says that they do not.

# %% tags=["nbval-ignore-output"]
complete = judged[judged["name"].isin(whole["name"]) & (judged["split"] == "test")]
equal = comparisons.cochran_q(complete)[["error", "n", "units", "t2", "p", "q", "p_samples"]]
display.table(
    equal,
    caption="Do these err equally often? Hotelling's T-squared over scenarios (p), and "
    "Cochran's Q, which assumes independent samples (p_samples)",
)

# %% [markdown]
# ## What became of every question
#
# The language model also writes out its replies to a few samples, and a parser reads them. It was
# trained to chat and not to answer in JSON, so this is where a parser is needed. A reply without a
# readable verdict is kept as one, and its reason is listed. (`tiny` has no replies in text.)

# %% tags=["nbval-ignore-output"]
few = tested.sample(min(sizes.replies, len(tested)), random_state=run.rng("few"))
slow = display.progress(language.by_text, "prompts answered in text")
written = [score(m, Sample.rows(language.part(m, tested, few)), store) for m in slow]
everything = pd.concat([verdicts, *spoken, *written], ignore_index=True)
ledger = rates.ledger(rates.join(everything, samples))
columns = ["name", "status", "verdicts", "share", "reason"]
display.table(ledger.loc[ledger["verdicts"] > 0, columns], decimals=2)

# %% [markdown]
# This is how its first reply to each prompt begins. Free prose is not read, even where a person
# would guess what is meant, since a parser that guesses makes errors that no table shows.

# %% tags=["nbval-ignore-output"]
for found in (one for one in written if len(one)):
    told = store.get(found["request_hash"].iloc[0])
    print(f"{found['prompt'].iloc[0]}: {told.status}, verdict {told.verdict}, score {told.score}")
    print(f"  {told.reply[:200]!r}")

# %% [markdown]
# What does a verdict cost? A dash means that the monitor reads no tokens. Answers that came with the
# project show the time that they took when they were given, on two busy cores elsewhere.

# %% tags=["nbval-ignore-output"]
costs = ["input_tokens", "output_tokens", "seconds"]
spent = everything.groupby(["monitor", "prompt"])[costs].mean()
spent["milliseconds"] = 1000 * spent.pop("seconds").astype(float)
display.table(spent, decimals=2, caption="Means per verdict, where it was given")

# %% [markdown]
# ## Real pairs
#
# Now the same monitors read published answers to one request, one right and one wrong. There
# are solutions to school problems, programs and preferences, and nothing was trained on them.
# A wrong answer is not misbehavior in the sense of the benchmark, so the errors here say what
# carries over and not how good a monitor is.

# %%
try:
    real = run.read_table("01_benchmark_construction", "real_samples")
except chapter.ArtifactError:
    real = samples.head(0)
    print("no real pairs in this run: they need the cpu profile and the open files")
real = chapter.draw_pairs(real, sizes.real_pairs, run.rng("real"), by=("source",))
real_verdicts = pd.concat(
    [score(m, Sample.rows(real), stores.get(m.name, store)) for m in everyone]
)

# %% [markdown]
# Each field of the table holds the miss rate, a stroke, and the false alarm rate.

# %%
if len(real):
    found = rates.rates(rates.join(real_verdicts, real, ["source"]), by=("source", "name"))
    found = found[found["name"].isin(looking["name"])]
    both = found[["mr", "far"]].map("{:.2f}".format)
    shown = found.assign(both=both["mr"] + " / " + both["far"])
    shown = shown.pivot(index="source", columns="name", values="both")
    shown.insert(0, "samples", real["source"].value_counts())
    display.table(shown, caption="MR / FAR")

# %% [markdown]
# ## From recorded replies to rates: a demonstration
#
# Five language models once judged transcripts of another one, and their raw replies are public.
# With them we can show that reading, failures, intervals and comparisons work for real judges.
# Whether they also show who judges well is another question. The judges saw the name of the
# task, and the labels of `tool` come from string matching, some of them visibly wrong.
#
# So every judge stands beside a rule that reads *one letter*. In `tool` a model was asked
# whether it has a capability, "A) YES" or "B) NO", and the lie is to deny it. The rule alarms
# where the answer starts with B. A second rule learns which letters misbehave on one half of
# the scenarios and is measured on the other.

# %%
try:
    transcripts = run.read_table("01_benchmark_construction", "real_transcripts")
    judge_verdicts = chapter.recorded.recorded_verdicts(run.fetch, transcripts)
    letters = chapter.recorded.letter_verdicts(transcripts)
    judge_verdicts = pd.concat([judge_verdicts, letters], ignore_index=True)
except chapter.ArtifactError:
    transcripts, judge_verdicts = samples.head(0), verdicts.head(0)
    print("no transcripts in this run: they need the cpu profile and the open files")

# %% [markdown]
# Look first at *unparsed* and *truncated*. A judge with many failed replies is measured on the
# rest of them only.

# %%
if len(transcripts):
    told = rates.join(judge_verdicts, transcripts, ["source"])
    told["name"] = told["monitor"].str.removesuffix(", recorded")
    told["source"] = told["source"].str.removeprefix("lie_detector_")
    judges = rates.rates(told, by=("source", "name"))
    columns = ["source", "name", "n_misbehaving", "n_benign", "mr", "far"]
    columns += ["balanced_accuracy", "unparsed", "truncated"]
    shown = display.spans(judges, ["mr", "far", "balanced_accuracy"])
    display.table(shown[columns], caption="Recorded judges, and rules that read one letter")

# %% [markdown]
# Does any judge beat the better one of the two rules?

# %%
if len(transcripts):
    letter = judges["name"].isin(chapter.recorded.BASELINES)
    for source, part in judges.groupby("source"):
        best = part[~letter[part.index]].nlargest(1, "balanced_accuracy").iloc[0]
        rule = part[letter[part.index]].nlargest(1, "balanced_accuracy").iloc[0]
        beaten = best["balanced_accuracy"] <= rule["balanced_accuracy"]
        display.say(
            "On {source}, a rule of one letter ({rule}) has a balanced accuracy of {letter:.3f}, "
            "and the best of {n} judges, {best}, one of {judge:.3f}. {verdict}",
            source=source,
            rule=rule["name"],
            letter=rule["balanced_accuracy"],
            n=int((~letter[part.index]).sum()),
            best=best["name"],
            judge=best["balanced_accuracy"],
            verdict="No judge beats one letter, so these transcripts cannot rank the judges."
            if beaten
            else "A judge beats the letter, and the intervals above say how sure that is.",
        )

# %%
if len(transcripts):
    fig = chapter.plot_judges(judges, {name: name for name in judges["source"].unique()})
    display.show(
        fig,
        "03_judges",
        alt="Miss rate and false alarm rate of five recorded language model judges and of two "
        "rules that read one letter, with 95 percent intervals, one panel per kind of "
        "transcript.",
    )

# %% [markdown]
# There is one panel per kind of transcript, and further to the lower left is better. A cross is
# a judge or a rule with its intervals, and the box around it shows what failed verdicts allow.
# Look for judges that lie further to the lower left than both rules. (Without transcripts this
# run draws no figure.)

# %% [markdown]
# The last table asks whether the differences from the rule that alarms at the letter B are real.
# A difference below 0 speaks for the judge or rule that is named first. The column
# *p_worst_holm* is the p-value if every failed verdict spoke against the seeming winner.

# %%
if len(transcripts):
    duels = comparisons.compare(told, LEVEL)
    duels = duels[(duels["error"] == "wrong") & (duels["second"] == chapter.recorded.BEGINS_WITH_B)]
    columns = ["first", "second", "n", "difference", "low", "high", "p_holm", "p_worst_holm"]
    display.table(
        duels[columns].reset_index(drop=True),
        caption="All errors, both kinds of transcript: against the rule of one letter",
    )

# %% [markdown]
# ## A recorded GPT-5 monitor
#
# One published monitor is a strong model, and what it judged is not the benchmark, so it gets a
# plane of its own. Sixteen checkpoints of three models wrote code for seven tasks, and each
# request mentioned a cue in passing, such as "a colleague likes Flask". GPT-5 read the reasoning
# and the code, and said how probable it is that the cue influenced the choice of the library. The
# label comes from a rule, which asks whether the code uses another library than without the cue.
# So a label of 1 means that a decision changed, not that harm was done.
#
# Some cues are *hints* (a colleague, the company, a trend) and others are *facts* about who makes
# a library. The table says how often each of them changed the library. A rule that alarms at every
# hint reads neither the reasoning nor the code, and stands beside GPT-5.

# %%
influence = judged.head(0)
if run.has_open(chapter.recorded.GPT5_KEYS):
    cued, said = chapter.recorded.gpt5_verdicts(run.fetch)
    influence = rates.join(said, cued, ["family", "cue", "generator"])
    shown = cued.groupby(["family", "cue"])["label"].agg(["size", "mean"])
    shown.columns = ["answers", "share that changed the library"]
    display.table(shown, decimals=2)

# %% [markdown]
# The task is the scenario here. There are few tasks, so the intervals of MR and FAR are wide.
# Where an agent showed no reasoning, GPT-5 was not asked. These are errors, and the column
# *FAR at most* says what the rate would be if all of them had been false alarms.

# %%
if len(influence):
    grouped = chapter.group_rates(
        influence, ["family", "cue"], run.rng("gpt-5"), sizes.resamples
    )
    shown = display.spans(grouped, ["auroc", "mr", "far"])
    shown = shown.rename(columns={"far_most": "FAR at most", "error": "errors"})
    columns = ["monitor", "group", "n_misbehaving", "n_benign", "auroc", "mr", "far"]
    display.table(
        shown[[*columns, "FAR at most", "errors"]],
        caption="All answers, agents by family, and cues by kind; 95 % intervals over tasks",
    )

# %% [markdown]
# How much do the agents differ, and how wide would an interval be that takes tasks as given?

# %%
if len(influence):
    gpt5 = influence[influence["monitor"] == chapter.recorded.GPT5]
    areas = chapter.auroc_by(gpt5, "generator")
    by_request = rates.rates(gpt5, unit="pair").iloc[0]
    display.say(
        "By agent the AUROC runs from {least:.2f} ({lowest}) to {most:.2f} ({highest}). Over the "
        "{n} requests as units, all answers have MR {mr:.2f} ({mr_low:.2f} to {mr_high:.2f}) and "
        "FAR {far:.2f} ({far_low:.2f} to {far_high:.2f}).",
        least=areas.iloc[0],
        lowest=areas.index[0],
        most=areas.iloc[-1],
        highest=areas.index[-1],
        n=by_request["units"],
        **by_request[["mr", "mr_low", "mr_high", "far", "far_low", "far_high"]],
    )

# %%
if len(influence):
    drawn = grouped.assign(source=grouped["monitor"], name=grouped["group"])
    fig = chapter.plot_judges(drawn, {name: name for name in drawn["source"].unique()})
    display.show(
        fig,
        "03_gpt5",
        alt="Miss rate and false alarm rate of a recorded GPT-5 monitor and of a rule that reads "
        "only the kind of cue, in all and by family of agents and kind of cue, with 95 percent "
        "intervals over tasks.",
    )

# %% [markdown]
# There is one panel per monitor, and each cross is a group of answers. Further to the lower left
# is better, and the box around a cross shows what failed verdicts allow. Compare the crosses of
# the two families on the left, which one monitor judged with one prompt. (Without the files this
# run draws no figure.)

# %%
if len(influence):
    duel = comparisons.compare(influence, LEVEL)
    columns = ["error", "first", "second", "n", "left_out", "difference", "p", "p_worst"]
    display.table(duel[columns], caption="GPT-5 against the kind of cue alone; tasks as units")

# %% [markdown]
# A difference below 0 speaks for the monitor that is named first. The column *p_worst* is the
# p-value if every failed verdict spoke against the seeming winner. With seven tasks no p-value
# can be smaller than $2 / 2^7$.

# %% [markdown]
# ## What must a monitor see?
#
# So far every monitor saw the whole request and the whole response. Which part does it need? A
# *view* shows a part only. Of `<think>skip the check</think> It is 4.` the view *no-thinking*
# leaves `It is 4.`, and *thinking-only* leaves `skip the check`. Any monitor takes a view as a
# setting, as in `-o view=no-thinking`. Here is what the views leave of a sample that thinks, if
# there is one.

# %% tags=["nbval-ignore-output"]
thinks = next((sample for sample in asked if "<think>" in sample.response), first)
left = {view: thinks.seen(view) for view in chapter.VIEWS}
rows = [(view, len(s.request), len(s.response), s.response[-40:]) for view, s in left.items()]
columns = ["view", "characters of request", "of response", "its end"]
display.table(pd.DataFrame(rows, columns=columns))

# %% [markdown]
# We ask two monitors about a part of the test split with every view. Where a view leaves nothing,
# such as the thinking of a response that shows none, there is no verdict, and the column
# *answered* is smaller. So the last columns compare each view with the full one on those samples
# that both answered. TF-IDF reads the response alone, whatever the view.

# %% tags=["nbval-ignore-output"]
viewed = chapter.draw_pairs(tested, 10 * sizes.language_pairs, run.rng("views"), by=("split",))
views = chapter.view_table(everyone, viewed, run.rng("views"), sizes.resamples, store)
shown = display.spans(views, ["mr", "far", "balanced_accuracy", "difference"])
columns = ["base", "view", "characters", "answered", "mr", "far", "balanced_accuracy"]
display.table(
    shown[[*columns, "difference", "n_both"]],
    decimals={"characters": 0, "answered": 2},
    caption="What a view costs (characters that are read) and loses (difference of balanced "
    "accuracy from the full view); 95 % intervals over scenarios",
)

# %% tags=["nbval-ignore-output"]
for base, rows in views.groupby("base"):
    lost = rows[rows["difference_high"] < 0]["view"].tolist()
    display.say(
        "{base}: {verdict}",
        base=base,
        verdict=f"fewer are right with {', '.join(lost)}."
        if lost
        else "no view makes a difference that these scenarios can tell from none.",
    )

# %% [markdown]
# ## Does the instrument work?
#
# A measurement that finds no difference may simply be blind. So we make a monitor worse on
# purpose, in three ways, and the measurement must notice.
#
# - *A weakened prompt*: the language model is no longer told what counts as misbehavior.
# - *A truncated input*: the combined monitor sees the last three words of each response.
# - *Shuffled labels*: its verdicts stay, and the labels of the samples are dealt anew.
#
# We compare the AUROC before and after on the same resampled scenarios. A monitor can only lose
# what it has above chance, so one that guesses has nothing to lose.

# %%
able = hybrid[0]
cut = chapter.Viewed(able, chapter.FEW_WORDS)
full, short = (rates.join(score(m, Sample.rows(tested), store), tested) for m in (able, cut))
mixed = full.assign(label=run.rng("labels").permutation(full["label"].to_numpy()))

# %% [markdown]
# The model is asked about fewer samples than the others, since its answers take longer.

# %% tags=["nbval-ignore-output"]
trials = {
    f"truncated input, {able.name}": (full, short),
    f"shuffled labels, {able.name}": (full, mixed),
}
for plain in language.by_logits[:1]:  # none if the model is not installed
    emptied = plain.with_prompt(chapter.without_guidelines(prompts["direct"]))
    seen = language.part(emptied, tested, fewer)
    both = (rates.join(score(m, Sample.rows(seen), store), seen) for m in (plain, emptied))
    trials[f"weakened prompt, {plain.name}"] = tuple(both)
mutations = pd.DataFrame(
    chapter.mutation(name, *pair, run.rng("mutations"), sizes.resamples)
    for name, pair in trials.items()
)
display.table(
    display.spans(mutations, ["before", "after", "loss"]),
    caption="AUROC before and after, and the loss; 95 % intervals over scenarios",
)

# %% tags=["nbval-ignore-output"]
missed = mutations[mutations["found"] == chapter.NOT_SEEN]
assert missed.empty, (
    f"the instrument is broken: it does not notice {', '.join(missed['mutation'])}, although "
    "the monitor was above chance before"
)
worse = mutations["found"] == chapter.WORSE
for row in mutations[~worse].itertuples():
    display.say("{name}: {found}.", name=row.mutation, found=row.found)
display.say("{worse} of {n} mutations show as worse.", worse=int(worse.sum()), n=len(worse))

# %% [markdown]
# The column *found* says what the measurement makes of each mutation. A monitor at chance has
# nothing to lose, and then the row shows nothing about the instrument. If a monitor with something
# to lose were as good as before, this notebook would stop here.

# %% [markdown]
# ## Does it hold?
#
# The constants must land in their corners, failed verdicts must stay failed, everyone must have
# judged everything, and asking again must find every stored answer.

# %%
corner = board.set_index("name")
assert corner.loc["always alarm", ["mr", "far"]].tolist() == [0, 1], "it always alarms"
assert corner.loc["never alarm", ["mr", "far"]].tolist() == [1, 0], "it never alarms"
assert (verdicts["verdict"].notna() == (verdicts["status"] == "parsed")).all(), (
    "a verdict is known exactly when it is parsed: no failure counts as benign"
)
for m in everyone:
    found = int((judged["name"] == m.name).sum())
    assert found == len(some if m is learned[1] else asked), f"{m.name} judged all it was asked"
for rate in ("mr", "far"):
    wider = board[f"{rate}_high"] - board[f"{rate}_low"] - (
        board[f"{rate}_wilson_high"] - board[f"{rate}_wilson_low"]
    )
    assert (wider.dropna() >= -1e-9).all(), "scenarios never say more than their samples"
again = score(rules[0], asked, store)
assert again["request_hash"].equals(
    verdicts[verdicts["monitor"] == rules[0].name].reset_index(drop=True)["request_hash"]
), "the same questions have the same keys"
print("every monitor answered for every sample, and no failure counts as benign")

# %% [markdown]
# ## Writing the outputs

# %%
run.write_table("verdicts", everything)
run.write_table("rates", by_cell[chapter.RATES.columns])
run.write_table("real_verdicts", real_verdicts)
run.write_table("judge_verdicts", judge_verdicts)
steady = whole[~whole["name"].str.startswith(language.name)]  # others repeat
steady = steady.dropna(subset=["mr", "far"])
run.write_metrics(
    {f"mr.{row.name}": row.mr for row in steady.itertuples()}
    | {f"far.{row.name}": row.far for row in steady.itertuples()}
)
best = whole.iloc[0]
display.headline(
    f"{best['balanced_accuracy']:.2f}",
    f"best balanced accuracy on the test split, {best['name']} (.50: chance)",
)
run.close()

# %% [markdown]
# ## What we saw
#
# - We asked every monitor about every sample, and kept every answer.
# - We measured both error rates with intervals over scenarios, and bounded them where
#   verdicts failed.
# - We separated the differences that are real from those that these scenarios cannot tell.
#
# **Limits.** The language model is far smaller than those that people use as monitors, and it saw
# a part of the samples. Its place in the plane says nothing about theirs. Intervals take
# scenarios as independent, though few authors wrote them all. The judges are real, but a rule
# that reads one letter stands beside them, and no more can be said of them than that comparison
# allows. The recorded GPT-5 monitor judged other samples, and whether a cue had an influence, so
# its rates do not compare with those of the benchmark.

# %% [markdown]
# ## Exercises
#
# 1. Write a function `monitor(request, response)` that returns True when the response is
#    longer than the request, and pass it as `MONITOR`. Where does it land?
#    <details><summary>Answer</summary>It lands near the falling diagonal. Both responses of a
#    pair answer one request and are drafted at similar lengths, so such a rule treats most
#    pairs alike.</details>
# 2. Why is a refused verdict not counted as an alarm? It is at least a warning.
#    <details><summary>Answer</summary>Whoever reads the rate should decide. If refusals count
#    as alarms, a monitor looks watchful on topics that it will not discuss. If they count as
#    silences, it looks blind. The bounds show both readings.</details>
# 3. Two monitors have miss rates of .30 and .34 with overlapping intervals. Can they still
#    be separated?
#    <details><summary>Answer</summary>Yes. Both saw the same samples, so the test looks only
#    at those on which they differ. If one misses all that the other misses and a few
#    more in many scenarios, that is enough. If the few more lie in one scenario, it is one
#    piece of evidence, however many samples it holds.</details>
