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
# *Paper: arXiv 2607.02510, sections 3 and 4. Cost: about half a minute in `tiny`, about
# two minutes in `cpu` on two cores; hours on one accelerator in `gpu`.*

# %% [markdown]
# **You will learn**
# - Train a small language model that solves problems step by step, and really errs.
# - Train a process reward model that scores each step, and read all steps in one pass.
# - Compare it with the free signal, the model's own token probabilities.
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
from monitorlab.pipeline.artifacts import open_run, write_table
from monitorlab.signals import figures, miniature
from monitorlab.signals.arithmetic import check
from monitorlab.signals.conversations import make_conversations, split_scenarios

# %%
run = open_run("06_step_signals", profile=PROFILE, run_id=RUN_ID, seed=SEED)
display.use(run)
problems = miniature.draw_problems(run)
sizes = {"train": problems.train, "verifier": problems.verifier, "test": problems.test}
print({purpose: len(group) for purpose, group in sizes.items()})

# %% [markdown]
# ## Problems with an exact checker
#
# The paper monitors large models on MATH, where another large model must decide which
# answers are right. The miniature is small enough to know: each problem is a chain of
# additions, subtractions, products and divisions on a running value, written as a ledger
# or as a story. The solution has one equation per line, and an exact checker says of
# every line whether it is right.

# %%
ledger = next(p for p in problems.test if p.kind == "ledger")
story = next(p for p in problems.test if p.kind == "story")
for problem in (ledger, story):
    print(problem.text)
    print(problem.solution)

# %% [markdown]
# The checker is strict. A line is wrong if its equation is false, if it uses other
# numbers or another operation than the problem asks for, or if it continues correctly
# from a value that was wrong before. Change one digit of a solution, and see.

# %%
lines = story.solution.rstrip("\n").split("\n")
broken = "\n".join([lines[0][:-1] + str((int(lines[0][-1]) + 1) % 10), *lines[1:]])
for name, text in (("reference", story.solution), ("one digit changed", broken)):
    finding = check(story, text)
    print(f"{name}: {[verdict.value for verdict in finding.verdicts]}")

# %% [markdown]
# No problem serves two purposes: what the generators learn from, what the verifier learns
# from, and what is tested never overlap, however a problem is told. A small fourth set
# will decide when a generator is good enough.

# %%
seen = [{p.expression for p in group} for group in sizes.values()]
assert not (seen[0] & seen[1]), "training and verifier problems must be disjoint"
assert not (seen[0] | seen[1]) & seen[2], "test problems must be unseen"
assert not any(check(p, p.solution).label for p in problems.test), "references are right"
print("three disjoint sets, and every reference solution checks out")

# %% [markdown]
# ## Two generators of different strength
#
# Both are small Llama models, and both come out of one training on reference solutions:
# each is the model at the moment when its expected accuracy on held-out problems reached a
# target,
# $$\frac{1}{n} \sum_x \prod_t p_\tau(o^\ast_t \mid x, o^\ast_{<t}),$$
# the chance that a solution sampled at temperature $\tau$ is the reference $o^\ast$.
# Nothing is corrupted: they err because they have not learned the arithmetic well
# enough. Checkpoints are ordinary `save_pretrained` folders, reused while nothing changes.

# %% tags=["nbval-ignore-output"]
folders = miniature.fit_generators(run, problems)
display.say(
    "{n:,} parameters each. Targets of expected accuracy: {targets}.",
    n=miniature.count_parameters(folders["strong"]),
    targets=str(miniature.GENERATORS),
)

# %% tags=["nbval-ignore-output"]
attempts = {
    name: miniature.attempt(run, name, folder, problems.test)
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
# Where do they go wrong? On the left, what the checker says about wrong lines; *carried
# error* marks lines that follow faithfully from an earlier mistake. On the right, how
# likely the first mistake is at each position.

# %%
errors = pd.concat(miniature.error_rows(*pair) for pair in attempts.items())
fig = figures.plot_errors(errors, "Where the small stand-in generators err")
display.show(
    fig,
    "06_errors",
    alt="Left: share of steps by kind of error for both generators. Right: share of "
    "steps at each position that are the first error of their solution.",
)

# %% [markdown]
# ## The free signal
#
# While it writes step $t$, a model assigns each token $o_i$ a probability. The lowest and
# the mean log-probability of the step cost nothing,
# $$s_t^{\min} = -\min_{i \in t} \log p(o_i \mid o_{<i}), \qquad
#   s_t^{\mathrm{mean}} = -\frac{1}{|t|} \sum_{i \in t} \log p(o_i \mid o_{<i}),$$
# with a minus sign, so that high means suspicious. The paper uses the first as an
# ablation ([1], section 4).
#
# ## The verifier
#
# A process reward model reads the problem and the solution so far, and says at the end of
# each step how likely it is that the step is wrong [2, 3]. Ours starts from the strong
# generator's weights and learns from solutions that *both generators* wrote for problems
# of their own, labelled line by line by the checker.

# %% tags=["nbval-ignore-output"]
lessons = [
    one
    for name, folder in folders.items()
    for one in miniature.attempt(run, name, folder, problems.verifier)
]
verifier = miniature.fit_verifier(run, lessons, base=folders["strong"])

# %% [markdown]
# ## The method happens here
#
# Attention is causal, so the state at the end of step $t$ has seen nothing after it. One
# forward pass over the finished solution therefore gives exactly the scores that a
# monitor running along would have seen, at all steps at once.

# %% tags=["nbval-ignore-output"]
tables = [
    miniature.attempt_tables(f"miniature_math_{name}", name, made, verifier)
    for name, made in attempts.items()
]
trajectories = pd.concat([table[0] for table in tables], ignore_index=True)
steps = pd.concat([table[1] for table in tables], ignore_index=True)
print(f"{len(trajectories)} solutions, {len(steps)} step scores under three signals")

# %%
strong = steps[steps["dataset"] == "miniature_math_strong"]
chosen = miniature.pick_examples(attempts["strong"])
panels = miniature.example_panels(attempts["strong"], strong, chosen)
fig = figures.plot_trajectories(panels, "Two solutions of the small stand-in generator")
display.show(
    fig,
    "06_examples",
    thumbnail=True,
    alt="A right and a wrong solution, line by line, with the suspicion of verifier and "
    "log-probability signals as bars; wrong lines are red.",
)

# %% [markdown]
# Bars are ranks among all steps, since the signals have different scales. Red lines are
# wrong. A good signal is short beside black lines and long beside red ones, beginning
# with the first red one.

# %%
by_steps = miniature.accuracy_by_steps(trajectories, problems.test)
fig = figures.plot_accuracy(by_steps, "Accuracy by length of the problem (small stand-ins)")
display.show(
    fig,
    "06_accuracy",
    alt="Share of right final answers against the number of steps, for the strong and "
    "the weak generator, with 95 percent intervals.",
)

# %% [markdown]
# ## Second use case: will the assistant give in?
#
# Harmlessness unfolds over turns. In the builtin conversations a user tries, turn by
# turn, to talk an assistant out of a confidentiality or permission rule; a turn is labelled
# 1 from the moment the protected thing is given. The conversations are composed from
# authored scenarios, so the labels are exact; scenarios in the test set were never used
# for training. A small guard, in the role of Llama Guard [4], scores every turn.

# %%
train_ids, test_ids = split_scenarios(run.rng("scenarios"))
amounts = run.profile.conversations
talks = {
    purpose: make_conversations(
        run.rng(f"{purpose} conversations"),
        n,
        scenarios=ids,
        min_turns=amounts.min_turns,
        max_turns=amounts.max_turns,
    )
    for purpose, n, ids in (
        ("training", amounts.n_train, train_ids),
        ("test", amounts.n_test, test_ids),
    )
}
assert not set(train_ids) & set(test_ids), "no scenario may serve both purposes"
print({purpose: len(group) for purpose, group in talks.items()})

# %%
example = next(talk for talk in talks["test"] if talk.label and len(talk.turns) == 3)
print(f"rule: {example.rule}")
for turn in example.turns:
    print(f"  user: {turn.user}\n  assistant [{turn.label}]: {turn.assistant}")

# %% tags=["nbval-ignore-output"]
guard = miniature.fit_guard(run, talks["training"])
told = miniature.conversation_tables("miniature_conversations", talks, guard)
trajectories = pd.concat([trajectories, told[0]], ignore_index=True)
steps = pd.concat([steps, told[1]], ignore_index=True)
display.say(
    "Of {n} test conversations, the assistant gave in in {share:.1%}.",
    n=len(told[0]),
    share=told[0]["label"].mean(),
)

# %% [markdown]
# ## How good are the signals?
#
# AUROC at the level of steps: the chance that a wrong step looks more suspicious than a
# right one. The intervals resample whole trajectories, since steps of one trajectory
# depend on each other.

# %%
auroc = miniature.step_auroc(steps, run.rng("bootstrap"))
fig = figures.plot_auroc(auroc, "Step signals of small stand-ins, unseen problems")
display.show(
    fig,
    "06_auroc",
    alt="Step AUROC with 95 percent intervals of the verifier and both log-probability "
    "signals on both generators, and of guard and words on conversations.",
)

# %% tags=["nbval-ignore-output"]
display.table(auroc, caption="Step AUROC, 95 % bootstrap intervals; wrong: base rate")

# %% [markdown]
# Three cautions. The paper found the free signal much weaker than its verifier. If it is
# strong here, a likely reason is that small models mostly slip, writing a token they
# themselves think improbable, while a large model that errs is often sure of itself.
# The row *words* is a linear classifier on the words of all answers so far: where it
# does better than the guard, the guard is no evidence that rule and answer are being
# related. And carried errors are easy to call suspicious once the first error has been
# seen, so the step AUROC flatters every signal that remembers.
#
# ## What do they cost?
#
# The free signal needs no further pass. The verifier reads each solution once more.

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
# The comparison is only worth reading if the generators err for real, at a rate between
# the extremes, and if the signals are better than chance.

# %%
rates = {name: round(rate, 3) for name, rate in accuracy.items()}
assert all(0.5 <= rate <= 0.9 for rate in rates.values()), f"out of range: {rates}"
assert accuracy["strong"] > accuracy["weak"], f"strong must beat weak: {rates}"
held = auroc[auroc["signal"].isin(["verifier", "guard"])]
assert (held["low"] > 0.5).all(), "a trained signal must beat chance on unseen problems"
print("generators err in the intended range, trained signals beat chance")

# %% [markdown]
# ## Writing the outputs

# %%
write_table(run, "trajectories", trajectories)
write_table(run, "steps", steps)
print("wrote trajectories and steps")

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
# - We trained two small language models that solve problems step by step, and checked
#   every step they wrote.
# - We trained a process reward model on other problems, and read all its step scores in
#   one pass.
# - We compared it with the lowest and the mean token log-probability of each step.
#
# **Limits.** These models are small stand-ins; their numbers illustrate the method and
# say nothing about large models. The problems are artificial, and the conversations are
# composed, not overheard.
#
# **Real models.** The same interface reads real checkpoints: token log-probabilities of
# any causal model, process reward models in the manner of Qwen2.5-Math-PRM and
# Math-Shepherd, and Llama-Guard-3 (`monitorlab.signals.scorers`).

# %% [markdown]
# ## Exercises
#
# 1. Run with another `SEED`. Which of the two log-probability signals is better, and is
#    the answer the same for both generators?
#    <details><summary>Answer</summary>Compare the intervals in the figure: where they
#    overlap, one seed cannot tell.</details>
# 2. Which kind of error should the free signal miss, and why?
#    <details><summary>Answer</summary>Carried errors: the model continues faithfully from
#    its own wrong value, and so is as sure of itself as ever.</details>
# 3. Run with `PROFILE` set to <code>cpu</code>. Which problems became harder, and what
#    happened to the verifier?
#    <details><summary>Answer</summary>Solutions are longer and contain products and
#    divisions, so there is more that can go wrong before the end; the verifier also gets
#    more to learn from.</details>
