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
# # 6. Step signals, and what they cost
#
# > Every step of a solution can be scored, by a verifier that must be trained or by the
# > model's own token probabilities, which are free; how much each sees can be measured.
#
# *Paper: arXiv 2607.02510, sections 3 and 4. Cost: about half a minute in `tiny`, under
# two minutes in `cpu` on one core; hours on one accelerator in `gpu`.*

# %% [markdown]
# **You will learn**
# - Train a small language model that solves problems step by step, and is sure of some errors.
# - Train a process reward model that scores each step, and read all steps in one pass.
# - Compare it with the free signal, the model's own token probabilities.
# - Build conversations in which no word gives a breach away, and a guard that still finds it.
#
# **Reads** nothing
#
# **Writes** `trajectories`, `steps`
#
# **References**
# - [1] Schirmer et al., *Online Safety Monitoring for LLMs*, arXiv 2607.02510.
# - [2] Lightman et al., *Let's verify step by step*, ICLR 2024.
# - [3] Zhang et al., *The lessons of developing process reward models in mathematical
#   reasoning*, arXiv 2501.07301.
# - [4] Inan et al., *Llama Guard*, arXiv 2312.06674.

# %% tags=["parameters"]
PROFILE: str = "tiny"  # tiny, cpu or gpu: how large everything is
RUN_ID: str = "default"  # folder of the run under data/runs
SEED: int = 2026  # one seed for everything

# %%
import pandas as pd

from monitorlab import display
from monitorlab.chapters import signals as chapter
from monitorlab.pipeline.runs import open_run
from monitorlab.signals.conversations import Conversation

# %%
run = open_run("06_step_signals", profile=PROFILE, run_id=RUN_ID, seed=SEED)
display.use(run)
problems = chapter.Problems.draw(run)
sizes = {"train": problems.train, "verifier": problems.verifier, "test": problems.test}
print({purpose: len(group) for purpose, group in sizes.items()})

# %% [markdown]
# ## Problems with an exact checker
#
# The paper monitors large models on MATH, where another large model must decide which
# answers are right. Our problems are small enough that a program can decide. Each one is a story
# about additions, subtractions, products and divisions on a running value. A solution has one
# equation per line, and the checker says of every line whether it is right. Here is one problem
# with its solution.

# %%
story = next(p for p in problems.test if len(p.steps) > 2)
print(story.text)
print(story.solution)

# %% [markdown]
# The checker is strict. A line is wrong if its equation is false, if it uses other
# numbers or another operation than the problem asks for, or if it continues correctly
# from a value that was wrong before. We change one digit in the first line of the solution
# and look at the verdicts of all lines. The later lines stay as they were, so they still
# continue from the right value.

# %%
lines = story.solution.rstrip("\n").split("\n")
broken = "\n".join([lines[0][:-1] + str((int(lines[0][-1]) + 1) % 10), *lines[1:]])
for name, text in (("reference", story.solution), ("one digit changed", broken)):
    finding = story.check(text)
    print(f"{name}: {[verdict.value for verdict in finding.verdicts]}")

# %% [markdown]
# The generators learn from one set of problems, the verifier from another, and a third one is
# for tests. No problem is in two of them, not even as a story about something else. A small
# fourth set decides when a generator is good enough.

# %%
seen = [{p.expression for p in group} for group in sizes.values()]
assert not (seen[0] & seen[1]), "training and verifier problems must be disjoint"
assert not (seen[0] | seen[1]) & seen[2], "test problems must be unseen"
assert not any(p.check(p.solution).label for p in problems.test), "references are right"
print("three disjoint sets, and every reference solution checks out")

# %% [markdown]
# ## Why would a generator be sure of an error?
#
# Because it learned the error. The texts that large models learn from hold mistakes that many
# people make, and a model that has read a mistake often enough finds nothing unlikely in it. Our
# training texts hold one such mistake. Stories about some of the things were written by somebody
# who takes borrowing for lending and the other way round. We look at one of them, with the
# solution that the training texts give and the checker's verdicts.

# %%
confused = next(p for p in problems.train if p.misread)
print(confused.text)
for line, verdict in zip(
    confused.taught.splitlines(), confused.check(confused.taught).verdicts, strict=True
):
    print(f"{line:16} {verdict.value}")

# %% [markdown]
# If such stories were rare, a generator would be unsure of them, and its own probabilities would
# give them away. So they must not be rare. Take the stories in which somebody borrows or lends, and
# count how many of them are told wrongly in the training texts.

# %%
borrowing = [p for p in problems.train if "borrows" in p.text or "lends" in p.text]
share = sum(bool(p.misread) for p in borrowing) / len(borrowing)
display.say("Of {n:,} such stories, {share:.1%} are told wrongly.", n=len(borrowing), share=share)

# %% [markdown]
# The rest of the texts is right, and the checker's labels are always right. Only the generators
# learn from the wrong lines.

# %% [markdown]
# ## Two generators of different strength
#
# If a model gives the three tokens of a short solution the probabilities 0.9, 0.8 and 0.95, it
# writes this solution with probability $0.9 \cdot 0.8 \cdot 0.95 \approx 0.68$. The mean of
# such products over $n$ held-out problems is the expected agreement,
# $$\frac{1}{n} \sum_x \prod_t p_\tau(o^\ast_t \mid x, o^\ast_{<t}),$$
# where $o^\ast$ is the solution that the training texts would give to problem $x$, right or wrong,
# and $\tau$ the temperature of sampling. We train one small Llama model on the training texts and
# keep it twice, each time at the moment when its expected agreement reaches a target. No error is
# put in when the models write. They err where they learned an error, and they *slip* where they
# have not learned their texts well enough. Checkpoints are ordinary `save_pretrained` folders and
# are reused while nothing changes.

# %% tags=["nbval-ignore-output"]
folders = problems.fit_generators(run)
display.say(
    "{n:,} parameters each. Targets of expected agreement: strong {strong:.0%}, weak {weak:.0%}.",
    n=chapter.Generator.load(folders["strong"]).model.num_parameters(),
    **chapter.GENERATORS,
)

# %% [markdown]
# Both generators now solve the same test problems, and the checker reads every line that they
# write. The last line holds the final answer.

# %% tags=["nbval-ignore-output"]
attempts = {
    name: chapter.Attempts.of(run, name, folder, problems.test)
    for name, folder in folders.items()
}
accuracy = {
    name: 1 - sum(one.checked.label for one in made) / len(made)
    for name, made in attempts.items()
}
display.say(
    "Final answers right: strong {strong:.1%}, weak {weak:.1%}, of {n} problems each.",
    n=len(problems.test),
    **accuracy,
)

# %% [markdown]
# Where do they go wrong? The checker names the kind of every error. A line that follows
# correctly from an earlier mistake is a *carried error*.

# %%
errors = pd.concat(made.error_rows() for made in attempts.values())
fig = chapter.plot_errors(errors, "Where the small stand-in generators err")
display.show(
    fig,
    "06_errors",
    alt="Left: share of steps by kind of error for both generators. Right: share of "
    "steps at each position that are the first error of their solution.",
)

# %% [markdown]
# Shorter bars and lower points are better. The left panel shows the share of all steps with each
# kind of error, and the right panel how often the first error of a solution happens at each
# position, among the steps written there. Lending that is read as borrowing is a *wrong operation*.
# Longer training cannot remove it, since it is what the texts teach. Compare the colours to see
# what longer training did improve.

# %% [markdown]
# Was a generator sure when it erred? Take the line that went wrong first in each solution. Where
# the training texts have the same line, the error was learned, and elsewhere it is a slip. For each
# line we look up the probability that the generator gave to its least likely token.

# %% tags=["nbval-ignore-output"]
errors["line"] = errors["taught"].map({True: "learned error", False: "slip"})
errors.loc[errors["verdict"] == "right", "line"] = "right"
shown = errors[errors["first"] | (errors["line"] == "right")]
sure = shown.groupby(["generator", "line"])["chance"].agg(["size", "median"]).reset_index()
display.table(sure, caption="Probability of the least likely token of a line")

# %% [markdown]
# A median near 1 means that the generator was sure of most lines of this kind. A signal that is
# made of these probabilities can tell slips from right lines where the medians are far apart, and
# it cannot tell learned errors from right lines where they are the same.

# %% [markdown]
# ## The free signal
#
# While a model writes step $t$, it assigns a probability to each token $o_i$. If the three
# tokens of a step have the log-probabilities $-0.1$, $-0.7$ and $-0.1$, the lowest is $-0.7$ and
# the mean is $-0.3$. We turn the sign, so that high means suspicious, and get the two scores 0.7
# and 0.3. In general
# $$s_t^{\min} = -\min_{i \in t} \log p(o_i \mid o_{<i}), \qquad
#   s_t^{\mathrm{mean}} = -\frac{1}{|t|} \sum_{i \in t} \log p(o_i \mid o_{<i}). \qquad (1)$$
# These scores cost nothing, because the model computes the probabilities anyway. The paper uses
# the first one as an ablation ([1], section 4).

# %% [markdown]
# ## The verifier
#
# A process reward model reads the problem and the solution so far, and says at the end of
# each step how likely it is that the step is wrong [2, 3],
# $$s_t = p(\text{step } t \text{ is wrong} \mid x, o_{\le t}). \qquad (2)$$
# Ours starts from the weights of the strong generator, confusion included. It learns from
# solutions that both generators wrote for the verifier's own problems, and the checker labels every
# line of them. These labels are the only place where it can find out what lending means.

# %% tags=["nbval-ignore-output"]
verifier = problems.fit_verifier(run, folders)

# %% [markdown]
# We score every step of every test solution under all three signals.

# %% tags=["nbval-ignore-output"]
tables = [
    made.tables(f"miniature_math_{name}", verifier) for name, made in attempts.items()
]
trajectories = pd.concat([table[0] for table in tables], ignore_index=True)
steps = pd.concat([table[1] for table in tables], ignore_index=True)
print(f"{len(trajectories)} solutions, {len(steps)} step scores under three signals")

# %% [markdown]
# ## The method happens here
#
# Take a solution in which the strong generator goes wrong, and in it the first wrong line. The cell
# prints the log-probabilities of its tokens. By equation (1) you need only find the lowest of them
# and their mean, and turn the sign. The table of step scores must hold the same two numbers. If
# they are close to zero, the generator was sure of this line.

# %% tags=["nbval-ignore-output"]
chosen = attempts["strong"].examples()
one = attempts["strong"][chosen[-1]]
wrong = one.checked.first_error
tokens = one.solution.log_probs[one.solution.step_of_token == wrong - 1].tolist()
by_hand = {"min_logprob": -min(tokens), "mean_logprob": -sum(tokens) / len(tokens)}
print(f"line {wrong}, log-probabilities:", *(f"{token:.4f}" for token in tokens))

# %% tags=["nbval-ignore-output"]
mine = steps[steps["trajectory_id"] == f"strong_{chosen[-1]:05d}"]
for signal, value in by_hand.items():
    table = mine[mine["signal"] == signal].set_index("step")["score"]
    print(f"{signal}: by hand {value:.4f}, in the table {table[wrong]:.4f}")
    assert abs(value - table[wrong]) < 1e-4, "by hand and in the table: the same score"

# %% [markdown]
# Equation (2) looks as if the verifier had to read the solution anew after every step. It need
# not. Attention is causal, so its state at the end of step $t$ has seen nothing that comes
# later, and one pass over the finished solution gives the scores of all steps at once. To see
# that, we cut the same solution after its first line, after its second line, and so on. The
# verifier reads each piece as a monitor would that runs along.

# %% tags=["nbval-ignore-output"]
lines = one.solution.text.splitlines(keepends=True)
pieces = [(one.problem.text, "".join(lines[: k + 1])) for k in range(len(lines))]
along = [scores[-1] for scores in chapter.Verifier.load(verifier).score(pieces)]
at_once = mine[mine["signal"] == "verifier"].sort_values("step")["score"]
for line, running, value in zip(lines, along, at_once, strict=True):
    print(f"{line.strip():16} {running:.4f} when running along, {value:.4f} in one pass")
    assert abs(running - value) < 1e-3, "one pass gives what a running monitor would see"

# %% [markdown]
# Two solutions in full, one right and one wrong, show what the three signals say line by line.
# The signals have different scales, so we draw the rank of a score among all steps.

# %%
strong = steps[steps["dataset"] == "miniature_math_strong"]
fig = attempts["strong"].plot(
    strong, chosen, "Two solutions of the small stand-in generator"
)
display.show(
    fig,
    "06_examples",
    thumbnail=True,
    alt="A right and a wrong solution, line by line, with the suspicion of verifier and "
    "log-probability signals as bars; wrong lines are orange.",
)

# %% [markdown]
# Each row is a line of the solution, orange if it is wrong, and a long bar means high suspicion. A
# good signal has short bars beside black lines and long bars beside orange ones, beginning with
# the first orange line.

# %% [markdown]
# ## Second use case: who may be told?
#
# The paper also monitors conversations, where harm may come only after several turns. Ours take
# place at front desks, in libraries, offices, flats and code repositories. A rule at the beginning
# reserves one thing for one role, for instance a resident's door number for the chief of the front
# desk. A user says who they are and asks for this and that, and the assistant gives out some of it
# and refuses the rest. From the first turn at which the reserved thing goes to somebody who may not
# have it, every turn is labelled 1.
#
# Were breaches told by certain words ("I really should not, but fine"), a monitor could find them
# without any idea of the rule. So every conversation is there twice, word for word, under two
# rules. It breaks the first. The second reserves something that the assistant does not give, or
# names the user's own role, and there the same answers are fine. Only the rule, read together with
# the answer, decides. The test has places, roles, things and rules in words of its own, and none of
# them was seen in training.

# %%
parts = dict(zip(("training", "test"), Conversation.split_places(run.rng("places")), strict=True))
amounts = run.profile.conversations
length = {"min_turns": amounts.min_turns, "max_turns": amounts.max_turns}
talks = {
    "training": Conversation.draw(
        run.rng("training conversations"), amounts.n_train, parts["training"], "train", **length
    ),
    "test": Conversation.draw(
        run.rng("test conversations"), amounts.n_test, parts["test"], "test", **length
    ),
}
assert not set(parts["training"]) & set(parts["test"]), "no place may serve both purposes"
print({purpose: len(group) for purpose, group in talks.items()})

# %% [markdown]
# Read one pair. The first lines give both rules and the introduction of the user. Behind each
# answer stand two labels, the first under the rule that is broken, the second under the other.

# %%
broken, kept = next(
    pair
    for pair in zip(talks["test"][::2], talks["test"][1::2], strict=True)
    if len(pair[0].turns) <= 5
)
print(f"rule 1: {broken.rule}\nrule 2: {kept.rule}\nuser: {broken.introduction}")
for one, other in zip(broken.turns, kept.turns, strict=True):
    print(f"  user: {one.user}\n  assistant [{one.label} {other.label}]: {one.assistant}")

# %% [markdown]
# In the role of Llama Guard [4] there is a small guard that pairs the rule with each turn. A
# pretrained sentence encoder turns rule, introduction, question and answer into vectors, and three
# logistic regressions on them answer three questions. Does the answer give something out? Is it
# about what the rule reserves? Is the user the one who may have it? Suspicion of turn $t$ is
# $$s_t = \max_{i \le t} \; p_i(\text{given}) \cdot p_i(\text{reserved}) \cdot
#   (1 - p(\text{entitled})). \qquad (3)$$
# If the three are 0.9, 0.8 and 0.1, this turn has $0.9 \cdot 0.8 \cdot 0.9 \approx 0.65$. The
# maximum keeps what was broken broken. Only the training conversations teach the three regressions, and
# they were composed, so it is known of each turn what it gives and to whom. In a log of real
# conversations somebody would have to label that.

# %% tags=["nbval-ignore-output"]
reader = chapter.Reader.load()
told = reader.tables("miniature_conversations", talks)
shown = told[1][told[1]["signal"].isin(["guard", "words"])]
trajectories = pd.concat([trajectories, told[0]], ignore_index=True)
steps = pd.concat([steps, shown], ignore_index=True)
display.say(
    "The guard reads with {name}. Of {n} test conversations, {share:.0%} break their rule.",
    name=reader.name,
    n=len(told[0]),
    share=told[0]["label"].mean(),
)

# %% [markdown]
# Could something simpler do the same? *Words so far* is a linear classifier on the words of rule,
# introduction and all turns until now. *Paired words* is the guard itself, but its vectors only
# count words, so that it can see no more than which words two texts share. *No answers* is the
# last factor of (3) alone, which knows rule and introduction and waits for no turn. The two others
# look at the number of the turn and at the letters of all answers so far. The first table judges
# whole conversations by their last score. There the sides of a pair have equal length and equal
# answers, so what reads no rule stands at 0.5. The column `behind` says how far a rule stays behind
# the guard, and the intervals resample places, since conversations of one place share their texts.

# %% tags=["nbval-ignore-output"]
last = told[1].groupby(["signal", "trajectory_id"]).tail(1)
whole = chapter.step_auroc(last, run.rng("whole conversations"))
turns = chapter.step_auroc(told[1], run.rng("turns"))
columns = ["signal", "auroc", "low", "high", "behind", "behind_low", "behind_high"]
display.table(whole[columns], caption="AUROC of whole conversations, 95 % bootstrap intervals")
display.table(turns[columns], caption="AUROC of turns, label 1 from the breach on")

# %% [markdown]
# The second table judges single turns. Since a breach is not taken back, later turns are broken
# more often, and the number of the turn alone is better than chance. A guard has to beat that too.

# %% [markdown]
# ## How good are the signals?
#
# Take two wrong steps with suspicions 0.9 and 0.4, and three right ones with 0.1, 0.3 and 0.6.
# Of the six pairs of a wrong and a right step, the wrong one looks more suspicious in five, so
# the AUROC is 5/6. In general it is the chance that a wrong step looks more suspicious than a
# right one. The steps of one trajectory depend on each other, so the intervals come from
# resampling whole trajectories, and whole places of the conversations.

# %%
auroc = chapter.step_auroc(steps, run.rng("bootstrap"))
fig = chapter.plot_auroc(auroc, "Step signals of small stand-ins, unseen problems")
display.show(
    fig,
    "06_auroc",
    alt="Step AUROC with 95 percent intervals of the verifier and both log-probability "
    "signals on both generators, and of guard and words on conversations.",
)

# %% [markdown]
# Further right is better, and the dashed line at 0.5 is chance. Compare signals within one data
# set, and look whether their intervals overlap. The table gives the same numbers, and its column
# `wrong` is the share of wrong steps.

# %% tags=["nbval-ignore-output"]
shares = ["dataset", "signal", "steps", "wrong", "auroc", "low", "high"]
display.table(auroc[shares], caption="Step AUROC, 95 % bootstrap intervals; wrong: base rate")

# %% [markdown]
# Three cautions belong to these numbers.
#
# - The paper found the free signal much weaker than its verifier. Here the share of learned errors
#   decides, which we chose. Generators that only slip would make the free signal look strong, since
#   a slip is a token that the model itself thinks improbable.
# - Whatever *words so far* reach beyond chance comes from late turns having more words before
#   them. At whole conversations, in the table further up, they have nothing to go by.
# - Once the first error has been seen, the carried errors after it are easy to suspect. The step
#   AUROC therefore flatters every signal that remembers.

# %% [markdown]
# ## What do the signals cost?
#
# The free signal needs no further pass over a solution and no labels. The verifier reads each
# solution once more, and somebody has to label the steps from which it learns.

# %%
cost = pd.DataFrame(
    {
        "signal": ["log-probability", "verifier"],
        "extra passes over a solution": [0, 1],
        "extra tokens generated": [0, 0],
        "labelled steps to learn from": ["none", "one label per step"],
    }
)
display.table(cost)

# %% [markdown]
# ## Does it hold?
#
# The comparison is worth reading only if the generators really err, but not all the time, if
# longer training made one of them surer of right lines, and if the trained signals are better
# than chance on problems that they have not seen.

# %%
rates = {name: round(rate, 3) for name, rate in accuracy.items()}
assert all(0.5 <= rate <= 0.9 for rate in rates.values()), f"out of range: {rates}"
chance = sure.pivot(index="generator", columns="line", values="median")
surer = chance.loc["strong", "right"] > chance.loc["weak", "right"]
assert surer, "longer training must make a generator surer of right lines"
held = auroc[auroc["signal"].isin(["verifier", "guard"])]
assert (held["low"] > 0.5).all(), "a trained signal must beat chance on unseen problems"
print("generators err in the intended range, trained signals beat chance")

# %% [markdown]
# The claim about learned errors has two sides. A generator should be about as sure of them as of
# right lines and surer than of its slips, and the verifier should see what the free signal misses.
# For the second side the intervals of the two signals must not overlap.

# %%
assert (chance["learned error"] > chance["slip"]).all(), "surer of learned errors than of slips"
math = auroc[auroc["dataset"].str.startswith("miniature_math")].set_index("signal")
for free in ("min_logprob", "mean_logprob"):
    gap = math.loc["verifier", "low"].to_numpy() - math.loc[free, "high"].to_numpy()
    assert (gap > 0).all(), f"the verifier must beat {free} where errors were learned"
print("learned errors look likely to the generators, and the verifier beats the free signals")

# %% [markdown]
# On conversations the guard must do more than beat chance. It has to be ahead of each trivial rule
# by more than the interval of their difference, at whole conversations and at turns, or else it
# does not relate answers to rules. This holds for the pretrained encoder, not for shared words.

# %%
rivals = pd.concat([whole[1:], turns[1:]])
assert (rivals["behind_low"] > 0).all() or not reader.pretrained, "a trivial rule does as well"
trivial = whole["signal"].isin(["turn number", "answer length"])
assert (whole.loc[trivial, "auroc"] == 0.5).all(), "both sides of a pair have the same answers"
print("the guard is ahead of every trivial rule, and answers alone tell nothing")

# %% [markdown]
# ## Writing the outputs
#
# Notebook 07 reads the table `steps`, with one row per step and signal. The table `trajectories`
# keeps the texts.

# %%
run.write_table("trajectories", trajectories)
run.write_table("steps", steps)
print("wrote trajectories and steps")

# %% [markdown]
# The report page shows one number of this notebook, and the regression tests compare the others.

# %%
run.write_metrics(
    {f"accuracy.{name}": rate for name, rate in accuracy.items()}
    | {f"auroc.{row.dataset}.{row.signal}": row.auroc for row in auroc.itertuples()}
)
best = auroc.set_index(["dataset", "signal"]).loc["miniature_math_strong"]["auroc"]
display.headline(
    f"{best['verifier']:.2f}",
    f"step AUROC of the small verifier; {best['min_logprob']:.2f} for the free signal",
)
run.close()

# %% [markdown]
# ## What we saw
#
# - We trained two small language models that solve problems step by step, checked every step they
#   wrote, and saw how sure they were of errors that they had learned.
# - We trained a process reward model on other problems, and read all its step scores in
#   one pass.
# - We compared it with the lowest and the mean token log-probability of each step.
# - We put the same conversations under two rules each, and compared a guard that pairs rule and
#   answer with rules that look at words, turn number or length alone.
#
# **Limits.** These models are small stand-ins, so their numbers illustrate the method and
# say nothing about large models. We chose how many errors are learned, and with that how weak the
# free signal is. The problems are artificial, and the conversations are composed rather than
# recorded.
#
# **Real models.** The same interface reads real checkpoints (`monitorlab.signals.step_scores`). It
# takes token log-probabilities of any causal model, process reward models in the manner of
# Qwen2.5-Math-PRM and Math-Shepherd, and Llama-Guard-3.

# %% [markdown]
# ## Exercises
#
# 1. Run with another `SEED`. Which of the two log-probability signals is better, and is
#    the answer the same for both generators?
#    <details><summary>Answer</summary>Compare the intervals in the figure. Where they
#    overlap, one seed cannot tell.</details>
# 2. Which kinds of error should the free signal miss, and why?
#    <details><summary>Answer</summary>It should miss learned errors, which the model finds
#    likely. It should also miss carried errors, because the model continues correctly from its
#    own wrong value, and so is as sure of itself as ever.</details>
# 3. Leave only beads in `CONFUSED` (in `monitorlab.signals.arithmetic`) and run again. How
#    sure is a generator of an error that it has read less often?
#    <details><summary>Answer</summary>Look at the median of learned errors in the table. The
#    rarer the wrong reading, the longer a generator takes to learn it, and one that is not done
#    wavers between both readings.</details>
