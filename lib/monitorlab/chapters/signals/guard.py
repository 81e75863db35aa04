"""A miniature guard: a small causal transformer that reads a rule and scores every turn after it.

It is an ordinary `LlamaForTokenClassification` checkpoint, trained here from scratch on composed
conversations. Each turn ends with a mark, and the score of a turn is read there. Attention is
causal, so one forward pass over a finished conversation gives exactly the scores that a monitor
running along would have seen turn by turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from transformers import (
    LlamaForTokenClassification,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from monitorlab.models.batching import Encoded, count_tokens, label_probability, logits_at_steps
from monitorlab.models.loading import load_model, load_tokenizer, no_progress_bars
from monitorlab.models.tiny import (
    IGNORED,
    Row,
    Training,
    byte_pair_tokenizer,
    fit,
    llama_config,
    seeded,
    suitable_threads,
)
from monitorlab.signals.conversations import Conversation

RULE, USER, ASSISTANT, END = "<rule>", "<user>", "<assistant>", "<end>"
MARKS = (RULE, USER, ASSISTANT, END)
VOCABULARY = 1200
MAX_POSITIONS = 1024
INITIAL_STD = 0.06  # the usual 0.02 suits wide models; this narrow one would not start to learn


def _text(conversation: Conversation) -> str:
    """Return what the guard reads; every turn closes with the mark at which it is scored."""
    turns = "".join(f"{USER}{t.user}{ASSISTANT}{t.assistant}{END}" for t in conversation.turns)
    return f"{RULE}{conversation.rule}{turns}"


def _encode(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Conversation]
) -> list[list[int]]:
    return tokenizer([_text(c) for c in conversations], add_special_tokens=False)["input_ids"]


def _examples(
    tokenizer: PreTrainedTokenizerFast, conversations: Sequence[Conversation]
) -> list[Row]:
    """Token ids, with the label of a turn at every token of its answer.

    Labels at the closing marks alone are some six per conversation, and learning from them is
    slow; the whole answer as target teaches the same question many times over.
    """
    start = tokenizer.convert_tokens_to_ids(ASSISTANT)
    end = tokenizer.convert_tokens_to_ids(END)
    rows = []
    for conversation, ids in zip(conversations, _encode(tokenizer, conversations), strict=True):
        turns, label = iter(conversation.turns), IGNORED
        labels: list[int] = []
        for token in ids:
            label = next(turns).label if token == start else label
            labels.append(label)
            label = IGNORED if token == end else label
        rows.append({"input_ids": ids, "labels": labels})
    return rows


def train_guard(
    conversations: Sequence[Conversation], settings: Training, folder: Path, seed: int
) -> None:
    """Train tokenizer and guard from scratch and save them.

    Parameters
    ----------
    conversations : sequence of Conversation
        Training conversations; both labels must occur.
    settings : Training
        Shape of the model, optimizer steps, tokens per step and peak learning rate.
    folder : Path
        Becomes an ordinary `save_pretrained` folder.
    seed : int
        Decides initial weights and order; torch's own random state is left as it was.

    Raises
    ------
    ValueError
        The conversations hold only one label.
    """
    if len({turn.label for c in conversations for turn in c.turns}) < 2:
        raise ValueError("the guard needs training turns of both labels, found one label only")
    tokenizer = byte_pair_tokenizer((c.text() for c in conversations), VOCABULARY, MARKS, True)
    rows = _examples(tokenizer, conversations)
    with seeded(seed), no_progress_bars():
        config = llama_config(
            settings.model, tokenizer, max_position_embeddings=MAX_POSITIONS,
            initializer_range=INITIAL_STD,
        )
        model = LlamaForTokenClassification(config)  # two labels are the default
        fit(model, rows, tokenizer.pad_token_id, settings, seed, muon=False)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def score_conversations(folder: Path, conversations: Sequence[Conversation]) -> list[np.ndarray]:
    """Score every turn of every conversation, one causal pass each.

    Parameters
    ----------
    folder : Path
        What `train_guard` wrote.
    conversations : sequence of Conversation

    Returns
    -------
    list of numpy.ndarray, shape (n_turns,)
        Suspicion in [0, 1]: the guard's probability that the rule has been broken by then.

    Raises
    ------
    monitorlab.models.loading.ModelError
        A conversation is longer than the guard can read.
    """
    tokenizer = load_tokenizer(str(folder), "")
    model = load_model(LlamaForTokenClassification.from_pretrained, str(folder), "")
    end = tokenizer.convert_tokens_to_ids(END)
    encoded = []
    for ids in _encode(tokenizer, conversations):
        positions = [i for i, token in enumerate(ids) if token == end]
        encoded.append(Encoded(ids, positions, [1] * len(positions)))
    with suitable_threads(model):
        logits = logits_at_steps(model, encoded, tokenizer.pad_token_id)
    return [label_probability(row, index=1) for row in logits]


def word_baseline(
    train: Sequence[Conversation], test: Sequence[Conversation]
) -> list[np.ndarray]:
    """Score every turn by the words of all answers so far: the baseline a guard has to beat.

    Parameters
    ----------
    train, test : sequence of Conversation
        To fit on and to score; they should share no scenario.

    Returns
    -------
    list of numpy.ndarray, shape (n_turns,)
        Log odds that the rule has been broken by then, of a logistic regression on TF-IDF.
    """

    def so_far(talk: Conversation) -> list[str]:
        return [
            " ".join(turn.assistant for turn in talk.turns[: k + 1])
            for k in range(len(talk.turns))
        ]

    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=3, sublinear_tf=True),
        LogisticRegression(max_iter=500),
    )
    texts = [text for talk in train for text in so_far(talk)]
    model.fit(texts, [turn.label for talk in train for turn in talk.turns])
    scores = model.decision_function([text for talk in test for text in so_far(talk)])
    return np.split(scores, np.cumsum([len(talk.turns) for talk in test])[:-1])


def turn_tokens(folder: Path, conversations: Sequence[Conversation]) -> list[np.ndarray]:
    """Count the tokens of every assistant answer: shape (n_turns,) each, at least 1."""
    tokenizer = load_tokenizer(str(folder), "")
    answers = [[turn.assistant for turn in c.turns] for c in conversations]
    return [np.array(count_tokens(tokenizer, texts)) for texts in answers]
